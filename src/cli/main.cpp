// The planish executable.
#include "cli/cli.hpp"

int main(int argc, char** argv) {
    return planish::cli::run(argc, argv);
}
