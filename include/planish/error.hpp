// The one error type of Planish: what happened, where, and what to do about it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "planish/export.hpp"

namespace planish {

/// Closed vocabulary of causes. `to_string` gives the name that Python, the CLI's JSON and the C ABI show.
enum class ErrorCode : uint8_t {
    invalid_argument,     ///< a call's own argument is wrong (name, shape, dtype, option)
    invalid_model,        ///< the model file or graph breaks a rule of its format
    invalid_plan,         ///< the plan file is damaged, truncated or not a plan
    unsupported,          ///< well-formed, but cannot be done by this build or on this device
    not_found,            ///< a file, tensor, device or symbol does not exist
    io_error,             ///< the operating system refused to read or write
    verification_failed,  ///< the build's own check against the reference went over tolerance
    resource_exhausted,   ///< out of memory, or a size over a stated limit
    internal,             ///< a broken invariant: a defect of Planish
};

PLANISH_API std::string_view to_string(ErrorCode code);

/// Thrown by every part of Planish. `what()` is "message (hint)".
class PLANISH_API Error : public std::runtime_error {
  public:
    Error(ErrorCode code, std::string message, std::string hint = {});

    ErrorCode code() const { return code_; }
    const std::string& message() const { return message_; }
    const std::string& hint() const { return hint_; }

    /// The same error with what this level knows put in front: "while importing node 'conv1': ...".
    Error with_context(std::string_view context) const;

  private:
    ErrorCode code_;
    std::string message_;
    std::string hint_;
};

[[noreturn]] PLANISH_API void fail(ErrorCode code, std::string message, std::string hint = {});

}  // namespace planish
