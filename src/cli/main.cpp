// The planish executable. Under the name `nvinfer` it is `planish build`.
#include <filesystem>
#include <vector>

#include "cli/cli.hpp"

int main(int argc, char** argv) {
    std::vector<const char*> words(argv, argv + argc);
    if (argc > 0 && std::filesystem::path(argv[0]).filename() == "nvinfer") words.insert(words.begin() + 1, "build");
    return planish::cli::run(static_cast<int>(words.size()), words.data());
}
