// Patterns that name layers.
#pragma once

#include <string_view>

namespace planish {

/// Whether `name` is described by `pattern`, in which * stands for any text and, unless it is '\0', `single` for any
/// one character.
constexpr bool matches(std::string_view pattern, std::string_view name, char single = '\0') {
    if (pattern.empty()) return name.empty();
    if (pattern[0] == '*')
        return matches(pattern.substr(1), name, single) || (!name.empty() && matches(pattern, name.substr(1), single));
    return !name.empty() && ((single != '\0' && pattern[0] == single) || pattern[0] == name[0]) &&
           matches(pattern.substr(1), name.substr(1), single);
}

}  // namespace planish
