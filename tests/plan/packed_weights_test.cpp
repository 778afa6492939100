// Weights stored in the order of a kernel: a permutation with a way back, read in place, and hostile descriptors.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "backends/packed_store.hpp"
#include "backends/packing.hpp"
#include "base/sparse_tensor.hpp"
#include "plan/container.hpp"
#include "plan/plan_io.hpp"
#include "planish/error.hpp"

namespace planish::plan {
namespace {

std::vector<float> random_floats(int64_t count, uint32_t seed = 1) {
    std::mt19937 generator(seed);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = static_cast<float>(generator()) * 0x1p-32f - 0.5f;
    return values;
}

Tensor packed_form(const Packing& packing, const std::vector<float>& source, int threads = 1) {
    Tensor packed(DType::f32, {packing.size()});
    packing.pack(source.data(), packed.data<float>().data(), threads);
    return packed;
}

//                               k    n   groups taps nr  vector transposed
constexpr Packing kPackings[] = {{7, 40, 1, 1, 16, 8, false},      // a MatMul; the last panel is half empty
                                 {64, 48, 1, 1, 48, 16, false},    // one panel
                                 {33, 1000, 1, 1, 64, 16, true},   // a classifier with transB
                                 {5, 3, 1, 1, 32, 8, true},        // narrower than a vector
                                 {9 * 6, 20, 1, 9, 24, 8, true},   // a 3x3 convolution
                                 {9 * 4, 10, 3, 9, 16, 16, true},  // in groups
                                 {25, 50, 1, 1, 16, 16, true},     // depthwise 5x5
                                 {512, 768, 1, 1, 32, 16, false},  // more than one task
                                 {1, 1, 1, 1, 8, 8, false}};

TEST(Packing, PlacesEveryElementWhereItsFormulaSays) {
    for (const Packing& p : kPackings) {
        ASSERT_TRUE(p.is_valid_for(p.source_size())) << to_string(p);
        const std::vector<float> source = random_floats(p.source_size());
        const Tensor packed = packed_form(p, source);
        std::vector<float> expected(static_cast<size_t>(p.size()), 0.0f);
        for (int64_t g = 0; g < p.groups; ++g)
            for (int64_t row = 0; row < p.k; ++row)
                for (int64_t column = 0; column < p.n; ++column) {
                    const int64_t channels = p.k / p.taps;  // row (tap, channel) of B is (channel, tap) of the source
                    const int64_t from = p.taps > 1 ? row % channels * p.taps + row / channels : row;
                    const int64_t at = g * p.k * p.n + (p.transposed ? column * p.k + from : from * p.n + column);
                    expected[static_cast<size_t>(g * p.layout().size() + p.layout().index(row, column))] =
                        source[static_cast<size_t>(at)];
                }
        EXPECT_TRUE(std::ranges::equal(packed.data<float>(), expected)) << to_string(p);
    }
}

TEST(Packing, IsUndoneBitForBitAndTheSameOnAnyNumberOfThreads) {
    for (const Packing& p : kPackings) {
        const std::vector<float> source = random_floats(p.source_size());
        const Tensor packed = packed_form(p, source);
        EXPECT_TRUE(identical(packed, packed_form(p, source, 4))) << to_string(p);
        std::vector<float> back(source.size());
        p.unpack(packed.data<float>().data(), back.data());
        EXPECT_EQ(back, source) << to_string(p);
    }
}

//                                 k    n   groups taps nr vector transposed bytes segments
constexpr Packing kBytePackings[] = {
    {7, 40, 1, 1, 16, 8, false, true, 1},     {64, 48, 1, 1, 48, 16, false, true, 1},
    {34, 1000, 1, 1, 64, 16, true, true, 1},  {2, 3, 1, 1, 32, 8, true, true, 1},  // less than a step
    {9 * 6, 20, 1, 9, 24, 8, true, true, 3},                                       // a 3x3 convolution, row by row
    {9 * 4, 10, 3, 9, 16, 16, true, true, 9},                                      // in groups
    {512, 768, 1, 1, 32, 16, false, true, 1}};

std::vector<int8_t> random_bytes(int64_t count) {
    std::mt19937 generator(1);
    std::vector<int8_t> values(static_cast<size_t>(count));
    for (int8_t& v : values) v = static_cast<int8_t>(generator());
    return values;
}

Tensor packed_form(const Packing& packing, const std::vector<int8_t>& source, int threads = 1) {
    Tensor packed(DType::f32, {packing.size()});
    packing.pack(source.data(), packed.raw(), threads);
    return packed;
}

TEST(BytePacking, IsUndoneAndKnowsItsColumnSums) {
    for (const Packing& p : kBytePackings) {
        ASSERT_TRUE(p.is_valid_for(p.source_size())) << to_string(p);
        const std::vector<int8_t> source = random_bytes(p.source_size());
        const Tensor packed = packed_form(p, source);
        EXPECT_EQ(std::memcmp(packed.raw(), packed_form(p, source, 4).raw(), static_cast<size_t>(packed.bytes())), 0);
        std::vector<int8_t> back(source.size());
        p.unpack(packed.raw(), back.data());
        EXPECT_EQ(back, source) << to_string(p);
        const auto sums = p.column_sums(packed.raw());
        ASSERT_EQ(static_cast<int64_t>(sums.size()), p.groups * p.n);
        for (int64_t g = 0; g < p.groups; ++g)
            for (int64_t column = 0; column < p.n; ++column) {
                int32_t sum = 0;
                for (int64_t row = 0; row < p.k; ++row)
                    sum += source[static_cast<size_t>(g * p.k * p.n +
                                                      (p.transposed ? column * p.k + row : row * p.n + column))];
                EXPECT_EQ(sums[static_cast<size_t>(g * p.n + column)], sum) << to_string(p) << " column " << column;
            }
    }
}

PlanContents plan_with(const Tensor& weights) {
    PlanContents contents;
    contents.graph = std::make_unique<Graph>("g");
    Value* x = contents.graph->add_input("x", {Kind::tensor, DType::f32, Shape{Dim(2), Dim(weights.dim(0))}});
    Value* w = contents.graph->add_constant("w", weights);
    Value* v = contents.graph->add_constant("v", weights);
    Node* first = contents.graph->add_node("MatMul", {x, w}, {}, 1, "first");
    Node* second = contents.graph->add_node("MatMul", {x, v}, {}, 1, "second");
    contents.graph->add_output(contents.graph->add_node("Add", {first->output(), second->output()})->output());
    return contents;
}

TEST(PackedPlan, IsReadInPlaceAndUnpackedWhenAsked) {
    const Packing packing{30, 40, 1, 1, 16, 8, false};
    const std::vector<float> source = random_floats(packing.source_size());
    const PlanContents before = plan_with(packed_constant({30, 40}, packed_form(packing, source), packing));
    auto bytes = std::make_shared<const std::vector<std::byte>>(write_bytes(before));
    EXPECT_LT(bytes->size(), source.size() * sizeof(float) * 11 / 10 + 4096) << "two equal weights, stored once";

    const PlanContents after = read(*bytes, nullptr);
    EXPECT_EQ(write_bytes(after), *bytes);
    std::vector<std::shared_ptr<const Tensor>> constants;
    for (const Value* value : after.graph->values())
        if (value->is_constant()) constants.push_back(value->constant);
    ASSERT_EQ(constants.size(), 2u);
    PackedStore store;
    const Tensor used = store.get(constants[0], packing, 1);
    const PackedSource* stored = packed_source(*constants[0]);
    ASSERT_NE(stored, nullptr);
    EXPECT_EQ(stored, packed_source(*constants[1])) << "what is made of it is shared too";
    EXPECT_EQ(used.raw(), stored->packed().raw());
    EXPECT_EQ(store.bytes(), 0);
    EXPECT_FALSE(stored->is_made());

    // Another order is made of the elements, which are those of the source.
    const Packing wide{30, 40, 1, 1, 32, 16, false};
    EXPECT_TRUE(identical(store.get(constants[0], wide, 1), packed_form(wide, source)));
    EXPECT_TRUE(stored->is_made());
    EXPECT_EQ(store.bytes(), wide.size() * 4);
    EXPECT_TRUE(std::ranges::equal(constants[1]->data<float>(), source));
    EXPECT_EQ(constants[0]->at_double(41), source[41]);
    EXPECT_TRUE(identical(constants[0]->clone(), Tensor::from<float>(source, {30, 40})));
}

TEST(PackedPlan, BytesAreReadInPlaceToo) {
    const Packing packing{30, 40, 1, 1, 16, 8, false, true, 1};
    const std::vector<int8_t> source = random_bytes(packing.source_size());
    PlanContents before;
    before.graph = std::make_unique<Graph>("g");
    Value* x = before.graph->add_input("x", {Kind::tensor, DType::f32, Shape{Dim(2), Dim(30)}});
    Value* w = before.graph->add_constant("w", packed_constant({30, 40}, packed_form(packing, source), packing));
    Value* s = before.graph->add_constant("s", Tensor::from<float>(std::vector<float>{0.5F}, {}));
    Node* dq = before.graph->add_node("DequantizeLinear", {w, s});
    before.graph->add_output(before.graph->add_node("MatMul", {x, dq->output()})->output());
    const auto bytes = write_bytes(before);
    const PlanContents after = read(bytes, nullptr);
    EXPECT_EQ(write_bytes(after), bytes);
    const auto constant = after.graph->find_value("w")->constant;
    PackedStore store;
    EXPECT_EQ(store.get(constant, packing, 1).raw(), packed_source(*constant)->packed().raw());
    EXPECT_FALSE(packed_source(*constant)->is_made());
    EXPECT_EQ(constant->dtype(), DType::i8);
    EXPECT_TRUE(std::ranges::equal(constant->data<int8_t>(), source));
}

TEST(PackedPlan, OthersAreWrittenInTheFormatThatOlderReadersTake) {
    const auto version_of = [](const PlanContents& contents) {
        Header header;
        const auto bytes = write_bytes(contents);
        read(bytes, nullptr);
        std::memcpy(&header, bytes.data(), sizeof header);
        return header.version;
    };
    const Packing packing{30, 40, 1, 1, 16, 8, false};
    const std::vector<float> source = random_floats(packing.source_size());
    EXPECT_EQ(version_of(plan_with(Tensor::from<float>(source, {30, 40}))), kPlainVersion);
    EXPECT_EQ(version_of(plan_with(packed_constant({30, 40}, packed_form(packing, source), packing))), kPackedVersion);
}

TEST(SparsePlan, WeightsAreStoredWithoutZerosAndRestored) {
    std::vector<float> source = random_floats(1200);
    for (size_t i = 0; i < source.size(); ++i)
        if (i % 4 != 0) source[i] = 0;
    const Tensor dense = Tensor::from<float>(source, {30, 40});
    const std::vector<std::byte> plain = write_bytes(plan_with(dense));
    const std::vector<std::byte> small = write_bytes(plan_with(compressed(dense)));
    EXPECT_LT(small.size(), plain.size() - 2 * 1200);
    const PlanContents contents = read(small, nullptr);
    for (const Value* value : contents.graph->values())
        if (value->is_constant() && value->constant->dims() == Dims{30, 40}) {
            ASSERT_NE(sparse_source(*value->constant), nullptr);
            EXPECT_FALSE(value->constant->source()->is_made());
            EXPECT_TRUE(identical(*value->constant, dense));
        }
    // What was read is written as it is.
    EXPECT_EQ(write_bytes(contents), small);
}

TEST(SparsePlan, WeightsThatDoNotFitAreDamage) {
    const Tensor stored = sparse_source(compressed(Tensor(DType::f32, {30, 40})))->stored();
    const Tensor wrong(DType::f32, {31, 40}, std::make_shared<const SparseSource>(DType::f32, 1240, stored));
    try {
        read(write_bytes(plan_with(wrong)), nullptr);
        FAIL() << "taken";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_plan) << error.message();
    }
}

TEST(PackedPlan, DescriptorsThatDoNotFitAreDamage) {
    const Packing good{30, 40, 1, 1, 16, 8, false};
    const Tensor packed = packed_form(good, random_floats(good.source_size()));
    const auto code_of = [&](const Packing& packing) {
        const Tensor constant(DType::f32, {30, 40}, std::make_shared<const PackedSource>(packed, packing));
        try {
            read(write_bytes(plan_with(constant)), nullptr);
        } catch (const Error& error) {
            return error.code();
        }
        return ErrorCode::internal;  // accepted
    };
    EXPECT_EQ(code_of(good), ErrorCode::internal);
    constexpr int64_t kHuge = int64_t{1} << 62;
    const Packing hostile[] = {{30, 40, 1, 1, 0, 8, false},         // no columns in a panel
                               {30, 40, 1, 1, 16, 0, false},        // no floats in a vector
                               {30, 40, 1, 1, -16, -8, false},      //
                               {30, 40, 1, 1, 20, 8, false},        // not whole vectors
                               {30, 40, 1, 1, 16, 16, false},       // more floats than there are
                               {30, 40, 1, 1, 1 << 30, 8, false},   //
                               {30, 41, 1, 1, 16, 8, false},        // not the constant's elements
                               {30, 40, 1, 1, 16, 8, false, true},  // not its element type
                               {30, 40, 1, 1, 16, 8, false, false, 3},
                               {30, 40, 1, 1, 16, 8, true, true, 7},
                               {-30, -40, 1, 1, 16, 8, false},  //
                               {30, 40, 0, 1, 16, 8, false},    //
                               {30, 40, 1, 0, 16, 8, true},     //
                               {30, 40, 1, 7, 16, 8, true},     // taps that do not divide k
                               {30, 40, 1, 5, 16, 8, false},    // taps of a matrix that is not transposed
                               {kHuge, 4, 1, 1, 16, 8, false},  // products that overflow
                               {kHuge, kHuge, 1200, 1, 16, 8, false}};
    for (const Packing& packing : hostile) EXPECT_EQ(code_of(packing), ErrorCode::invalid_plan) << to_string(packing);
}

}  // namespace
}  // namespace planish::plan
