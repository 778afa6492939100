// Attributes: typed values on nodes, checked against the op's row.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "planish/tensor.hpp"

namespace planish {

class Graph;
using GraphPtr = std::shared_ptr<Graph>;  // subgraphs are shared only while copied; Graph::clone() deep-copies

using Attribute = std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>, Tensor, GraphPtr>;
enum class AttrType : uint8_t { integer, real, text, integers, reals, texts, tensor, graph };  // = variant index

inline AttrType type_of(const Attribute& a) {
    return static_cast<AttrType>(a.index());
}

using Attributes = std::map<std::string, Attribute, std::less<>>;

}  // namespace planish
