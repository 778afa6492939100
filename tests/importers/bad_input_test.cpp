// Everything that is not a good ONNX model gives one Error that says what it is and what to do; never a crash.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "importers/onnx/importer.hpp"
#include "importers/onnx_text.hpp"

namespace planish::test {
namespace {

namespace fs = std::filesystem;
using onnx_import::import_bytes;
using onnx_import::import_file;
using testing::HasSubstr;

const char kAdd[] = "agraph (float[N, 3] x, float[N, 3] y) => (float[N, 3] z) { z = Add(x, y) }";

class BadInput : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::temp_directory_path() / ("planish_bad_input_" + std::to_string(getpid()));
        fs::create_directories(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::string file(const std::string& name, const std::string& content) {
        const fs::path path = folder_ / name;
        fs::create_directories(path.parent_path());
        std::ofstream(path, std::ios::binary) << content;
        return path.string();
    }
    void expect_error(const std::string& path, ErrorCode code, const std::string& message) {
        const Error e = error_of([&] { import_file(path); });
        EXPECT_EQ(e.code(), code) << e.what();
        EXPECT_THAT(e.message(), HasSubstr(message));
        EXPECT_FALSE(e.hint().empty()) << e.what();
    }
    fs::path folder_;
};

TEST_F(BadInput, MissingFile) {
    expect_error((folder_ / "none.onnx").string(), ErrorCode::not_found, "none.onnx");
}
TEST_F(BadInput, Folder) {
    expect_error(folder_.string(), ErrorCode::invalid_argument, "folder");
}

TEST_F(BadInput, ForeignFormats) {
    struct Row {
        std::string content, message;
    };
    const Row rows[] = {
        {"", "empty"},
        {std::string("PLANISH\0\1\0\0\0", 12), "a Planish plan"},
        {std::string("PK\3\4\24\0\0\0\0\0archive/data.pklFB", 29), "PyTorch"},
        {std::string("PK\3\4\24\0\0\0\0\0something/else", 24), "zip archive"},
        {std::string("\x80\2\x8a\nl\xfc\x9c", 7), "pickle"},
        {"\x89HDF\r\n\x1a\n....", "HDF5"},
        {std::string("\34\0\0\0TFL3abcd", 12), "TensorFlow Lite"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"},
        {"<!DOCTYPE html><html><body>404</body></html>", "HTML page"},
        {"<?xml version=\"1.0\"?><net name=\"model\"/>", "XML"},
        {"{\"nodes\": []}", "JSON"},
        {"<ir_version: 8, opset_import: [\"\" : 17]> agraph ...", "text"},
        {"\x1f\x8b\x08....", "gzip"},
    };
    for (const Row& row : rows) expect_error(file("model.onnx", row.content), ErrorCode::invalid_model, row.message);
}

TEST_F(BadInput, ProtobufThatIsNoModel) {
    // A message with other fields (here: field 2 = 5 bytes), as a TensorFlow saved_model.pb is.
    expect_error(file("saved_model.pb", "\x12\x05hello"), ErrorCode::invalid_model, "no graph");
    expect_error(file("noise.onnx", "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8 noise"), ErrorCode::invalid_model,
                 "truncated, damaged");
}

TEST_F(BadInput, EveryTruncationAndBitFlipIsAnErrorOrAModel) {
    const std::string models[] = {
        bytes_of(with_opset(17,
                            "agraph (float[N, 3] x) => (float[N, 3] z) <float[3] w = {1, 2, 3}, int64[2] k = {7, 8}> "
                            "{ t = Add(x, w) u = Identity(k) v = Constant<value = float[2] {1, 2}>() z = Relu(t) }")),
        bytes_of("<ir_version: 9, opset_import: [\"\" : 18, \"local\" : 1]> agraph (float[N] x) => (float[N] z) "
                 "{ z = local.twice <k = 2> (x) } "
                 "<opset_import: [\"\" : 18], domain: \"local\"> twice <k> (a) => (b) { b = Add(a, a) }"),
    };
    for (const std::string& model : models) {
        ASSERT_TRUE(import_bytes(as_bytes(model)));
        auto survives = [](const std::string& bytes) {
            try {
                import_bytes(as_bytes(bytes));
            } catch (const Error& e) {
                EXPECT_FALSE(e.message().empty());
            }
        };
        for (size_t n = 0; n < model.size(); ++n) survives(model.substr(0, n));
        for (size_t n = 0; n < model.size(); ++n) {
            for (int value : {0, 0x7f, 0x80, 0xff, model[n] ^ 1, model[n] ^ 0x40}) {
                std::string changed = model;
                changed[n] = static_cast<char>(value);
                survives(changed);
            }
        }
        std::mt19937 random(1);
        for (int i = 0; i < 2000; ++i) {
            std::string changed = model;
            for (int k = 0; k < 4; ++k) changed[random() % changed.size()] = static_cast<char>(random());
            survives(changed);
        }
    }
}

TEST_F(BadInput, OpsetsAndIrVersions) {
    const Error newer = error_of([] { import_text(with_opset(999, kAdd)); });
    EXPECT_EQ(newer.code(), ErrorCode::unsupported);
    EXPECT_THAT(newer.message(), HasSubstr("opset 999"));
    EXPECT_THAT(newer.hint(), HasSubstr("opset_version="));
    EXPECT_EQ(error_of([] { import_text(with_opset(0, kAdd)); }).code(), ErrorCode::invalid_model);

    auto model = parse_model(with_opset(17, kAdd));
    model.set_ir_version(99);
    EXPECT_EQ(error_of([&] { import_model(model); }).code(), ErrorCode::unsupported);
    model = parse_model(with_opset(17, kAdd));
    model.clear_opset_import();
    EXPECT_THAT(error_of([&] { import_model(model); }).message(), HasSubstr("opset"));
}

TEST_F(BadInput, AllMissingOperatorsAreListedAtOnce) {
    const Error e = error_of([] {
        import_text(
            "<ir_version: 8, opset_import: [\"\" : 17, \"com.acme\" : 1]> agraph (float[N] x) => (float[N] z) "
            "{ [first] a = com.acme.Warp(x) [second] b = com.acme.Warp(a) [third] c = Bogus(b) z = Relu(c) }");
    });
    EXPECT_EQ(e.code(), ErrorCode::unsupported);
    EXPECT_THAT(e.message(), HasSubstr("com.acme.Warp (2 nodes, first: 'first')"));
    EXPECT_THAT(e.message(), HasSubstr("Bogus (1 node, first: 'third')"));
    EXPECT_FALSE(e.hint().empty());
}

TEST_F(BadInput, BrokenGraphs) {
    struct Row {
        std::string body, message;
    };
    const Row rows[] = {
        {"agraph (float[N] x) => (float[N] z) { z = Add(x, nowhere) }", "reads 'nowhere'"},
        {"agraph (float[N] x) => (float[N] z) { y = Relu(x) }", "output 'z'"},
        {"agraph (float[N] x) => (float[N] z) { z = Relu(x) z = Relu(x) }", "called 'z'"},
        {"agraph (float[N] x, float[N] x) => (float[N] z) { z = Relu(x) }", "called 'x'"},
        {"agraph (float[N] x) => (float[N] z) { z = Relu(x, x) }", "not valid"},
        {"agraph (float[N] x) => (float[N] z) { z = Relu <alpha = 1.0> (x) }", "not valid"},
        {"agraph (float[N] x) => (float[N] z) { a = Add(x, b) b = Relu(a) z = Relu(b) }", "its own result"},
        {"agraph (float[N] x) => () { z = Relu(x) }", "no outputs"},
        {"agraph (x) => (float[N] z) { z = Relu(x) }", "no element type"},
    };
    for (const Row& row : rows) {
        const Error e = error_of([&] { import_text(with_opset(17, row.body)); });
        EXPECT_EQ(e.code(), ErrorCode::invalid_model) << row.body << "\n" << e.what();
        EXPECT_THAT(e.message(), HasSubstr(row.message)) << row.body;
        EXPECT_FALSE(e.hint().empty());
    }
}

TEST_F(BadInput, FunctionsThatCallThemselves) {
    const Error e = error_of([] {
        import_text(
            "<ir_version: 9, opset_import: [\"\" : 18, \"l\" : 1]> agraph (float[N] x) => (float[N] z) { z = l.f(x) } "
            "<opset_import: [\"\" : 18, \"l\" : 1], domain: \"l\"> f (a) => (b) { b = l.g(a) } "
            "<opset_import: [\"\" : 18, \"l\" : 1], domain: \"l\"> g (a) => (b) { b = l.f(a) }");
    });
    EXPECT_EQ(e.code(), ErrorCode::invalid_model) << e.what();
}

TEST_F(BadInput, FunctionsThatGrowWithoutBound) {
    std::string text =
        "<ir_version: 9, opset_import: [\"\" : 18, \"l\" : 1]> agraph (float[N] x) => (float[N] z) { z = l.f0(x) } ";
    for (int i = 0; i < 30; ++i) {
        const std::string inner = i == 29 ? "Relu" : "l.f" + std::to_string(i + 1);
        text += "<opset_import: [\"\" : 18, \"l\" : 1], domain: \"l\"> f" + std::to_string(i) + " (a) => (b) { ";
        text += "c0 = " + inner + "(a) ";
        for (int k = 1; k < 8; ++k)
            text += "c" + std::to_string(k) + " = " + inner + "(c" + std::to_string(k - 1) + ") ";
        text += "b = Relu(c7) } ";
    }
    const Error e = error_of([&] { import_text(text); });
    EXPECT_EQ(e.code(), ErrorCode::resource_exhausted) << e.what();
}

// ---- Tensors ----

pb::ModelProto with_weight() {
    return parse_model(
        with_opset(17, "agraph (float[N, 3] x) => (float[N, 3] z) <float[3] w = {1, 2, 3}> { z = Add(x, w) }"));
}

TEST_F(BadInput, TensorsThatDoNotFitTheirShape) {
    auto expect = [](auto&& change, const std::string& message) {
        auto model = with_weight();
        change(*model.mutable_graph()->mutable_initializer(0));
        const Error e = error_of([&] { import_model(model); });
        EXPECT_EQ(e.code(), ErrorCode::invalid_model) << e.what();
        EXPECT_THAT(e.message(), HasSubstr(message));
        EXPECT_THAT(e.message(), HasSubstr("w"));
    };
    expect([](pb::TensorProto& t) { t.set_dims(0, 4); }, "need 4");
    expect([](pb::TensorProto& t) { t.set_dims(0, -3); }, "negative");
    expect(
        [](pb::TensorProto& t) {
            t.set_dims(0, INT64_MAX);
            t.add_dims(8);
        },
        "more elements");
    expect([](pb::TensorProto& t) { t.set_dims(0, int64_t{1} << 62); }, "more elements");
    expect(
        [](pb::TensorProto& t) {
            t.clear_float_data();
            t.set_raw_data("12345");
        },
        "5 bytes");
    expect([](pb::TensorProto& t) { t.set_data_type(77); }, "unknown element type");
    expect([](pb::TensorProto& t) { t.set_data_type(pb::TensorProto::INT64); }, "need 3");
}

TEST_F(BadInput, ExternalDataStaysInItsFolder) {
    const std::string outside = file("outside.bin", std::string(12, '\1'));
    fs::create_directories(folder_ / "model");
    fs::create_symlink(outside, folder_ / "model/link.bin");
    fs::create_directory_symlink(folder_, folder_ / "model/up");
    auto expect = [&](const std::string& location, ErrorCode code, const std::string& message) {
        auto model = with_weight();
        auto& tensor = *model.mutable_graph()->mutable_initializer(0);
        tensor.clear_float_data();
        tensor.set_data_location(pb::TensorProto::EXTERNAL);
        auto& entry = *tensor.add_external_data();
        entry.set_key("location");
        entry.set_value(location);
        expect_error(file("model/model.onnx", model.SerializeAsString()), code, message);
        const Error e = error_of([&] { import_bytes(as_bytes(model.SerializeAsString())); });
        EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
        EXPECT_THAT(e.message(), HasSubstr("without a folder"));
    };
    expect("../outside.bin", ErrorCode::invalid_model, "not inside");
    expect("sub/../../outside.bin", ErrorCode::invalid_model, "not inside");
    expect(outside, ErrorCode::invalid_model, "not inside");
    expect("", ErrorCode::invalid_model, "not inside");
    expect("link.bin", ErrorCode::invalid_model, "leads out");
    expect("up/outside.bin", ErrorCode::invalid_model, "leads out");
    expect("missing.bin", ErrorCode::not_found, "missing");
    expect("/etc/passwd", ErrorCode::invalid_model, "not inside");
    file("model/short.bin", "1234");
    expect("short.bin", ErrorCode::invalid_model, "has only 4");
}

TEST_F(BadInput, ExternalDataIsReadWhereItShouldBe) {
    std::string data(4, '\0');
    for (float value : {1.5f, 2.5f, 3.5f}) data.append(reinterpret_cast<const char*>(&value), 4);
    file("weights/data.bin", data);
    auto model = with_weight();
    auto& tensor = *model.mutable_graph()->mutable_initializer(0);
    tensor.clear_float_data();
    tensor.set_data_location(pb::TensorProto::EXTERNAL);
    for (auto [key, value] : {std::pair("location", "weights/data.bin"), {"offset", "4"}, {"length", "12"}}) {
        auto& entry = *tensor.add_external_data();
        entry.set_key(key);
        entry.set_value(value);
    }
    const auto graph = import_file(file("model.onnx", model.SerializeAsString()));
    const Value* weight = graph->find_value("w");
    ASSERT_TRUE(weight && weight->is_constant());
    EXPECT_THAT(weight->constant->to_doubles(), testing::ElementsAre(1.5, 2.5, 3.5));

    model.mutable_graph()->mutable_initializer(0)->mutable_external_data(1)->set_value("-1");
    expect_error(file("model.onnx", model.SerializeAsString()), ErrorCode::invalid_model, "not a number");
    model.mutable_graph()->mutable_initializer(0)->mutable_external_data(1)->set_value("18446744073709551612");
    expect_error(file("model.onnx", model.SerializeAsString()), ErrorCode::invalid_model, "has only 16");
}

}  // namespace
}  // namespace planish::test
