// The planish command as a function, so that the executable, the Python package and the tests run the same one.
#pragma once

namespace planish::cli {

/// Runs `planish VERB ...`. Results go to stdout, everything else to stderr.
/// Returns 0 only when what was asked for was done, 2 for a wrong command line, 1 for any other failure.
int run(int argc, const char* const* argv);

}  // namespace planish::cli
