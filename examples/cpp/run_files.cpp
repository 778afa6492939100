// Run a plan on raw arrays in files: run_files PLAN INPUT=DIMS:FILE... OUTPUT=FILE...
//
//     run_files bert.plan input_ids=1x128:ids.bin attention_mask=1x128:mask.bin output=hidden.bin
//
// A file holds the elements in row-major order and nothing else. Shows a context, memory of the caller on the way in,
// and memory of the context on the way out. Prints each output's dimensions.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <planish/planish.hpp>

struct Argument {
    std::string name, file;
    planish::Dims dims;
    std::vector<char> bytes;
};

static Argument parse(const std::string& text) {
    const size_t equals = text.find('='), colon = text.find(':', equals);
    if (equals == std::string::npos)
        throw planish::Error(planish::ErrorCode::invalid_argument, "'" + text + "' is not NAME=DIMS:FILE or NAME=FILE");
    if (colon == std::string::npos) return {text.substr(0, equals), text.substr(equals + 1), {}, {}};
    Argument result{text.substr(0, equals), text.substr(colon + 1), {}, {}};
    for (size_t at = equals + 1; at < colon;) {
        size_t end = 0;
        result.dims.push_back(std::stoll(text.substr(at, colon - at), &end));
        at += end + 1;
    }
    std::ifstream file(result.file, std::ios::binary);
    result.bytes.assign(std::istreambuf_iterator<char>(file), {});
    return result;
}

static const planish::TensorInfo* find(std::span<const planish::TensorInfo> infos, const std::string& name) {
    for (const planish::TensorInfo& info : infos)
        if (info.name == name) return &info;
    return nullptr;
}

int main(int argc, char** argv) try {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s PLAN INPUT=DIMS:FILE... OUTPUT=FILE...\n", argv[0]);
        return 2;
    }
    const planish::Engine engine = planish::load(std::filesystem::path(argv[1]));
    std::vector<Argument> arguments;
    for (int i = 2; i < argc; ++i) arguments.push_back(parse(argv[i]));

    std::vector<planish::NamedView> inputs;
    for (Argument& argument : arguments) {
        const planish::TensorInfo* info = find(engine.inputs(), argument.name);
        if (info == nullptr) continue;
        const int64_t expected = planish::byte_size(info->dtype, planish::element_count(argument.dims));
        if (int64_t(argument.bytes.size()) != expected)
            throw planish::Error(planish::ErrorCode::invalid_argument,
                                 argument.file + " has " + std::to_string(argument.bytes.size()) + " bytes, " +
                                     planish::to_string(argument.dims) + " takes " + std::to_string(expected));
        inputs.push_back({argument.name, {info->dtype, argument.dims, argument.bytes.data()}});
    }
    planish::Context context = engine.create_context();
    const std::span<const planish::TensorView> outputs = context.run(inputs);

    for (size_t i = 0; i < outputs.size(); ++i) {
        const planish::TensorInfo& info = engine.outputs()[i];
        std::printf("%s %s\n", info.name.c_str(), planish::to_string(outputs[i].dims).c_str());
        for (const Argument& argument : arguments)
            if (argument.name == info.name && argument.dims.empty())
                std::ofstream(argument.file, std::ios::binary)
                    .write(static_cast<const char*>(outputs[i].data),
                           planish::byte_size(info.dtype, planish::element_count(outputs[i].dims)));
    }
    return 0;
} catch (const planish::Error& error) {
    std::fprintf(stderr, "%s\n%s\n", error.message().c_str(), error.hint().c_str());
    return 1;
}
