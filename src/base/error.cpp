// Error: construction and names.
#include "planish/error.hpp"

#include <utility>

namespace planish {

std::string_view to_string(ErrorCode code) {
    switch (code) {
        case ErrorCode::invalid_argument:
            return "invalid_argument";
        case ErrorCode::invalid_model:
            return "invalid_model";
        case ErrorCode::invalid_plan:
            return "invalid_plan";
        case ErrorCode::unsupported:
            return "unsupported";
        case ErrorCode::not_found:
            return "not_found";
        case ErrorCode::io_error:
            return "io_error";
        case ErrorCode::verification_failed:
            return "verification_failed";
        case ErrorCode::resource_exhausted:
            return "resource_exhausted";
        case ErrorCode::internal:
            return "internal";
    }
    return "internal";
}

Error::Error(ErrorCode code, std::string message, std::string hint)
    : std::runtime_error(hint.empty() ? message : message + " (" + hint + ")"),
      code_(code),
      message_(std::move(message)),
      hint_(std::move(hint)) {}

Error Error::with_context(std::string_view context) const {
    return Error(code_, std::string(context) + ": " + message_, hint_);
}

void fail(ErrorCode code, std::string message, std::string hint) {
    throw Error(code, std::move(message), std::move(hint));
}

}  // namespace planish
