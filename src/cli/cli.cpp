// `planish VERB`: finds the verb, runs it, turns errors into messages and exit codes.
#include "cli/cli.hpp"

#include <fmt/format.h>

#include <new>

#include "cli/common.hpp"
#include "cli/terminal.hpp"

namespace planish::cli {
namespace {

void report(const Error& error, bool json) {
    fmt::print(stderr, "{} {}\n", paint("error:", Colour::red, stderr), error.message());
    if (!error.hint().empty()) fmt::print(stderr, "{} {}\n", paint(" hint:", Colour::yellow, stderr), error.hint());
    if (json)
        fmt::print(
            "{}\n",
            Json{{"error", {{"code", to_string(error.code())}, {"message", error.message()}, {"hint", error.hint()}}}}
                .dump(2, ' ', false, Json::error_handler_t::replace));
}

bool wants_json(int argc, const char* const* argv) {
    for (int i = 1; i < argc; ++i)
        if (std::string_view(argv[i]) == "--json") return true;
    return false;
}

}  // namespace

int run(int argc, const char* const* argv) {
    CLI::App app("Planish: trained network in, plan out, plan run. Ask a verb for more: planish build --help",
                 "planish");
    app.set_version_flag("--version", "planish " + std::string(version()));
    app.require_subcommand(1);
    const std::pair<const char*, Verb> verbs[] = {
        {"build", add_build(app)},       {"run", add_run(app)},         {"bench", add_bench(app)},
        {"inspect", add_inspect(app)},   {"compare", add_compare(app)}, {"export", add_export(app)},
        {"quantize", add_quantize(app)}, {"prune", add_prune(app)},     {"sparsify", add_sparsify(app)},
        {"cache", add_cache(app)},       {"doctor", add_doctor(app)}};
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    const bool json = wants_json(argc, argv);
    try {
        for (const auto& [name, verb] : verbs)
            if (app.got_subcommand(name)) return verb();
    } catch (const Error& error) {
        report(error, json);
    } catch (const std::bad_alloc&) {
        report(Error(ErrorCode::resource_exhausted, "out of memory"), json);
    } catch (const std::exception& error) {
        report(Error(ErrorCode::internal, error.what()), json);
    }
    return 1;
}

}  // namespace planish::cli
