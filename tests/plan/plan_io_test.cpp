// Plans: what is written is what is read, byte for byte the same each time; damage is an error and never a crash.
#include "plan/plan_io.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>

#include "backends/packing.hpp"
#include "base/aligned_buffer.hpp"
#include "plan/container.hpp"
#include "planish/error.hpp"

namespace planish::plan {
namespace {

using testing::HasSubstr;

std::vector<float> ramp(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 97) * 0.25f;
    return values;
}

/// A graph with symbolic shapes, large, small, equal and string constants, every kind of attribute, and a body.
PlanContents sample() {
    PlanContents contents;
    contents.graph = parse_graph(R"(graph "sample" {
        input %x : float32[N, 8]
        const %s : float32[] = [0.5]
        %c = Mul(%x, %s) name "scale" origins ["user_scale", "user_scale_2"]
        %r = planish.Region(%c) {kind = "pointwise", body = graph "b" {
            input %a : float32[N, 8]
            %y = Relu(%a)
            output %y
        }} name "region"
        %k = Softmax(%r) {axis = 1}
        output %k
    })");
    Graph& graph = *contents.graph;
    const auto weights = ramp(8 * 40);
    Value* w = graph.add_constant("w", Tensor::from<float>(weights, {8, 40}));
    Value* same = graph.add_constant("w_again", Tensor::from<float>(weights, {8, 40}));
    Value* k = graph.outputs()[0];
    Node* first = graph.add_node("MatMul", {k, w}, {}, 1, "fc");
    Node* second = graph.add_node("MatMul", {k, same}, {}, 1, "fc_again");
    Node* sum = graph.add_node("Add", {first->output(), second->output()}, {}, 1, "sum");
    const Packing packing{40, 8, 1, 1, 16, 8, false};
    Tensor packed(DType::f32, {packing.size()});
    packing.pack(weights.data(), packed.data<float>().data(), 1);
    Value* p1 = graph.add_constant("packed", packed_constant({40, 8}, packed, packing));
    Node* third = graph.add_node("MatMul", {sum->output(), p1}, {}, 1, "fc_packed");
    graph.set_output(0, third->output());
    graph.metadata = {{"author", "somebody"}};
    contents.profiles = {{{{1, 8}}, {{2, 8}}, {{4, 8}}}};
    contents.sections = {{"cpu:avx2", {{"fc", "gemm.avx2"}, {"sum", "pointwise.avx2"}}}};
    Provenance& p = contents.provenance;
    p.source = {{"format", "onnx"}};
    p.metadata = {{"key", "value"}};
    p.passes = {{"fold-constants", 3, 0}};
    p.layers = {{"fc", {"a", "b"}, "MatMul", "gemm.avx2", "cpu", DType::f32, 640, 1280, {{"x", "isa_missing"}}}};
    p.verification = {{"fc", {"a"}, "gemm.avx2", 1e-7, 1e-6, true, "2x8"}};
    p.precision = {{"fc", "MatMul", "fp32", "int8", 40, ""}, {"head", "MatMul", "fp32", "fp32", 300, "pinned"}};
    p.output_errors = {{"y", 35.5, 0.999}};
    p.mixes = {{"int8", 2, 1e-3, 0.5, NAN, false, true, false}, {"mix 1", 1, 2e-3, 0.9, 0.8, true, true, true}};
    return contents;
}

PlanContents read_back(std::span<const std::byte> bytes) {
    return read(bytes, nullptr);
}

ErrorCode code_of(std::span<const std::byte> bytes) {
    try {
        read_back(bytes);
    } catch (const Error& error) {
        return error.code();
    }
    ADD_FAILURE() << "no error";
    return ErrorCode::internal;
}

std::string message_of(std::string_view content) {
    try {
        read_back(std::as_bytes(std::span(content)));
    } catch (const Error& error) {
        return error.what();
    }
    return "no error";
}

TEST(PlanIo, ReadsWhatWasWritten) {
    const PlanContents before = sample();
    const auto bytes = write_bytes(before);
    const PlanContents after = read_back(bytes);
    EXPECT_EQ(print(*after.graph, -1), print(*before.graph, -1));
    EXPECT_EQ(after.graph->metadata, before.graph->metadata);
    ASSERT_EQ(after.profiles.size(), 1u);
    EXPECT_EQ(after.profiles[0].opt, before.profiles[0].opt);
    ASSERT_EQ(after.sections.size(), 1u);
    EXPECT_EQ(after.sections[0].tactics[1].implementation, "pointwise.avx2");
    const Provenance &p = after.provenance, &q = before.provenance;
    EXPECT_EQ(p.source, q.source);
    EXPECT_EQ(p.metadata, q.metadata);
    EXPECT_EQ(p.passes[0].changes, 3);
    EXPECT_EQ(p.layers[0].layers, q.layers[0].layers);
    EXPECT_EQ(p.layers[0].refused, q.layers[0].refused);
    EXPECT_EQ(p.layers[0].flops, 640);
    EXPECT_EQ(p.verification[0].tolerance, 1e-6);
    EXPECT_TRUE(p.verification[0].passed);
    ASSERT_EQ(p.precision.size(), 2u);
    EXPECT_EQ(p.precision[0].after, "int8");
    EXPECT_EQ(p.precision[1].note, "pinned");
    EXPECT_EQ(p.output_errors.at(0).sqnr, 35.5);
    ASSERT_EQ(p.mixes.size(), 2u);
    EXPECT_TRUE(std::isnan(p.mixes[0].held_out));
    EXPECT_EQ(p.mixes[1].held_out, 0.8);
    EXPECT_EQ(p.mixes[1].layers, 1);
    EXPECT_TRUE(p.mixes[1].chosen && !p.mixes[0].chosen);
}

TEST(PlanIo, EqualContentsGiveEqualBytes) {
    const auto first = write_bytes(sample());
    EXPECT_EQ(first, write_bytes(sample()));
    EXPECT_EQ(first, write_bytes(read_back(first)));
}

TEST(PlanIo, UnknownDimensionsDoNotDependOnWhatTheProcessDidBefore) {
    auto make = [] {
        PlanContents contents;
        contents.graph = std::make_unique<Graph>("g");
        const Dim open = Dim::unknown();
        Value* x = contents.graph->add_input("x", {Kind::tensor, DType::f32, Shape{open, Dim(2), open}, Kind::tensor});
        contents.graph->add_output(contents.graph->add_node("Relu", {x})->output());
        return contents;
    };
    const auto bytes = write_bytes(make());
    for (int i = 0; i < 5; ++i) Dim::unknown();
    EXPECT_EQ(bytes, write_bytes(make()));
    const PlanContents after = read_back(bytes);
    const Shape& shape = *after.graph->inputs()[0]->type.shape;
    EXPECT_EQ(shape[0], shape[2]);
    EXPECT_FALSE(shape[0] == Dim::unknown());
}

TEST(PlanIo, EqualWeightsAreStoredOnce) {
    const auto bytes = write_bytes(sample());
    const auto weights = ramp(8 * 40);
    const std::string_view haystack(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const std::string_view needle(reinterpret_cast<const char*>(weights.data()), weights.size() * sizeof(float));
    const size_t first = haystack.find(needle);
    ASSERT_NE(first, std::string_view::npos);
    EXPECT_EQ(first % kAlignment, 0u);
    EXPECT_EQ(haystack.find(needle, first + 1), std::string_view::npos);
}

TEST(PlanIo, ConstantsBorrowTheMappedFile) {
    const auto bytes = write_bytes(sample());
    auto memory = std::make_shared<AlignedBuffer>(bytes.size());
    std::memcpy(memory->data(), bytes.data(), bytes.size());
    const PlanContents after = read({memory->data(), memory->size()}, memory);
    const auto* data = static_cast<const std::byte*>(after.graph->find_value("w")->constant->raw());
    EXPECT_GE(data, memory->data());
    EXPECT_LT(data, memory->data() + memory->size());
    EXPECT_GT(memory.use_count(), 1);
}

TEST(PlanIo, FilesAreReplacedWhole) {
    const auto path = std::filesystem::path(testing::TempDir()) / "planish_plan_io_test.plan";
    write(sample(), path);
    write(sample(), path);
    EXPECT_EQ(read(path).graph->outputs().size(), 1u);
    std::filesystem::remove(path);
    EXPECT_THROW(read(path), Error);
    try {
        write(sample(), "/nonexistent-folder/a.plan");
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::io_error);
        EXPECT_THAT(error.message(), HasSubstr("/nonexistent-folder/a.plan"));
    }
}

TEST(PlanIo, SaysWhatAForeignFileIs) {
    EXPECT_THAT(message_of(std::string("\x08\x0a\x12\x07pytorch:", 12)), HasSubstr("ONNX model"));
    EXPECT_THAT(message_of(std::string("\x08\x0a\x12\x07pytorch:", 12)), HasSubstr("planish build"));
    EXPECT_THAT(message_of(std::string("PK\x03\x04____", 8)), HasSubstr("zip archive"));
    EXPECT_THAT(message_of("hello, this is text\n"), HasSubstr("text"));
    EXPECT_THAT(message_of(""), HasSubstr("empty file"));
    EXPECT_THAT(message_of(std::string("PLANISH\0", 8)), HasSubstr("ends inside its header"));
}

TEST(PlanIo, EveryTruncationIsAnError) {
    const auto bytes = write_bytes(sample());
    for (size_t length = 0; length < bytes.size(); length += length < 200 ? 1 : 13)
        EXPECT_EQ(code_of(std::span(bytes).first(length)), ErrorCode::invalid_plan) << length;
}

TEST(PlanIo, EveryFlippedByteIsFoundUnlessItIsPadding) {
    const auto good = write_bytes(sample());
    auto bytes = good;
    Header header;
    std::memcpy(&header, bytes.data(), sizeof header);
    for (size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] ^= std::byte{0x40};
        const bool must_fail = i < sizeof(Header) || i >= header.description_offset;
        try {
            read_back(bytes);
            EXPECT_FALSE(must_fail) << i;
        } catch (const Error& error) {
            EXPECT_TRUE(error.code() == ErrorCode::invalid_plan || error.code() == ErrorCode::unsupported) << i;
        }
        bytes[i] = good[i];
    }
}

/// Damage that the checksums do not show: as somebody would make who knows the format.
TEST(PlanIo, ResealedDamageIsAnErrorOrAValidPlan) {
    const auto good = write_bytes(sample());
    Header header;
    std::memcpy(&header, good.data(), sizeof header);
    std::mt19937 random(7);
    int survived = 0;
    for (int round = 0; round < 4000; ++round) {
        auto bytes = good;
        for (int flips = 1 + round % 3; flips > 0; --flips) {
            const size_t at = header.description_offset + random() % header.description_bytes;
            bytes[at] = std::byte{static_cast<unsigned char>(round % 2 ? random() : random() % 4 * 85)};
        }
        Header sealed = header;
        sealed.description_checksum = checksum(bytes.data() + header.description_offset, header.description_bytes);
        sealed.header_checksum = header_checksum(sealed);
        std::memcpy(bytes.data(), &sealed, sizeof sealed);
        try {
            const PlanContents contents = read_back(bytes);
            check(*contents.graph);
            for (const Value* value : contents.graph->values())  // every element can be read
                if (value->is_constant() && value->constant->dtype() != DType::string)
                    checksum(value->constant->raw(), static_cast<size_t>(value->constant->bytes()));
            ++survived;
        } catch (const Error& error) {
            EXPECT_TRUE(error.code() == ErrorCode::invalid_plan || error.code() == ErrorCode::unsupported ||
                        error.code() == ErrorCode::resource_exhausted)
                << error.what();
        }
    }
    EXPECT_GT(survived, 0);  // names and numbers that still make sense
}

TEST(PlanIo, ANewerFormatIsNamed) {
    auto bytes = write_bytes(sample());
    Header header;
    std::memcpy(&header, bytes.data(), sizeof header);
    header.version = 99;
    header.header_checksum = header_checksum(header);
    std::memcpy(bytes.data(), &header, sizeof header);
    EXPECT_EQ(code_of(bytes), ErrorCode::unsupported);
}

}  // namespace
}  // namespace planish::plan
