// Channels from couplings, and the graph without some of them.
#include "sparsity/channels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "passes/rewrite.hpp"
#include "planish/error.hpp"
#include "sparsity/couplings.hpp"

namespace planish::sparsity {
namespace {

bool has_weights(const Node& node) {
    return node.is("Conv") || node.is("ConvTranspose") || node.is("Gemm") || node.is("MatMul");
}

/// The layer that makes the group's channels: the first product whose output has them, else whoever writes the axis.
std::string name_of(const ChannelGroup& group, const std::vector<ChannelAxis>& axes) {
    const Node* first = nullptr;
    for (const int a : group.axes) {
        const Node* node = axes[static_cast<size_t>(a)].value->producer;
        if (node == nullptr) continue;
        if (has_weights(*node)) return passes::origins_of(*node).front();
        if (first == nullptr) first = node;
    }
    return first ? passes::origins_of(*first).front() : axes[static_cast<size_t>(group.axes.front())].value->name;
}

Couplings couple(const Graph& graph) {
    std::optional<Couplings::Pivots> pivots{std::in_place};
    for (;;) {
        Couplings couplings(graph, *pivots);
        for (const auto& node : graph.nodes()) couplings.add(*node);
        pivots = couplings.better_pivots();
        if (!pivots) return couplings;
    }
}

}  // namespace

const ChannelAxis* Channels::find(const Value* value, int axis) const {
    for (const ChannelAxis& a : axes)
        if (a.value == value && a.axis == axis) return &a;
    return nullptr;
}

Channels find_channels(const Graph& graph) {
    Couplings couplings = couple(graph);
    // Only what has weights of its own is worth removing.
    std::map<int, int> number;  // representative -> channel
    for (const Value* value : graph.values()) {
        if (!value->is_constant() || !is_float(value->type.dtype)) continue;
        for (int64_t axis = 0; axis < rank_of(value); ++axis)
            for (int64_t i = 0; i < size_of(value, axis); ++i)
                if (const int id = couplings.find(value, axis, i); id >= 0) number.emplace(id, 0);
    }
    Channels result;
    for (auto& [id, channel] : number) channel = result.count++;

    std::vector<std::vector<int>> axes_of(static_cast<size_t>(result.count));
    for (const Value* value : graph.values())
        for (int axis = 0; axis < rank_of(value); ++axis) {
            ChannelAxis entry{value, axis, {}};
            bool any = false;
            for (int64_t i = 0; i < size_of(value, axis); ++i) {
                const auto it = number.find(couplings.find(value, axis, i));
                entry.channel.push_back(it == number.end() ? kStays : it->second);
                any = any || entry.channel.back() != kStays;
            }
            if (!any) continue;
            const auto place = static_cast<int>(result.axes.size());
            for (const int channel : std::set<int>(entry.channel.begin(), entry.channel.end()))
                if (channel != kStays) axes_of[static_cast<size_t>(channel)].push_back(place);
            result.axes.push_back(std::move(entry));
        }

    std::map<std::vector<int>, ChannelGroup> groups;
    for (int channel = 0; channel < result.count; ++channel) {
        ChannelGroup& group = groups[axes_of[static_cast<size_t>(channel)]];
        group.axes = axes_of[static_cast<size_t>(channel)];
        group.channels.push_back(channel);
    }
    for (auto& [_, group] : groups) {
        group.name = name_of(group, result.axes);
        group.width = std::numeric_limits<int64_t>::max();
        for (const int a : group.axes) {
            const ChannelAxis& axis = result.axes[static_cast<size_t>(a)];
            if (axis.value->is_constant())
                group.width = std::min<int64_t>(
                    group.width, std::count(axis.channel.begin(), axis.channel.end(), group.channels.front()));
        }
        result.groups.push_back(std::move(group));
    }
    std::sort(result.groups.begin(), result.groups.end(),
              [](const ChannelGroup& a, const ChannelGroup& b) { return a.channels.front() < b.channels.front(); });
    return result;
}

std::string print(const Channels& channels) {
    std::string text;
    for (const ChannelGroup& group : channels.groups) {
        text += fmt::format("{}: {} channels, width {}:", group.name, group.channels.size(), group.width);
        for (const int a : group.axes) {
            const ChannelAxis& axis = channels.axes[static_cast<size_t>(a)];
            if (axis.value->is_constant()) text += fmt::format(" {}[{}]", axis.value->name, axis.axis);
        }
        text += "\n";
    }
    return text;
}

std::vector<int64_t> kept_indices(const ChannelAxis& axis, const std::vector<bool>& removed) {
    std::vector<int64_t> kept;
    for (size_t i = 0; i < axis.channel.size(); ++i)
        if (axis.channel[i] == kStays || !removed[static_cast<size_t>(axis.channel[i])])
            kept.push_back(static_cast<int64_t>(i));
    return kept;
}

Tensor take(const Tensor& tensor, int64_t axis, const std::vector<int64_t>& indices) {
    Dims dims = tensor.dims();
    const int64_t size = dims[static_cast<size_t>(axis)];
    dims[static_cast<size_t>(axis)] = static_cast<int64_t>(indices.size());
    int64_t inner = bit_width(tensor.dtype()) / 8, outer = 1;
    for (size_t i = 0; i < dims.size(); ++i)
        if (static_cast<int64_t>(i) != axis) (static_cast<int64_t>(i) < axis ? outer : inner) *= dims[i];
    Tensor result(tensor.dtype(), dims);
    const auto* from = static_cast<const std::byte*>(tensor.raw());
    auto* to = static_cast<std::byte*>(result.raw());
    for (int64_t o = 0; o < outer; ++o)
        for (const int64_t index : indices) {
            std::memcpy(to, from + (o * size + index) * inner, static_cast<size_t>(inner));
            to += inner;
        }
    return result;
}

}  // namespace planish::sparsity
