// Plans that a stranger wrote: for every row of the op table, random and damaged nodes go through the plan's bytes, the
// loader, the compiler, the CPU kernels and the interpreter. Nothing but planish::Error may come out, and soon.
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <random>

#include "base/memory_limit.hpp"
#include "hostile_seeds.hpp"
#include "plan/plan_io.hpp"
#include "planish/planish.hpp"

namespace planish {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max(), kMin = std::numeric_limits<int64_t>::min();

/// PLANISH_FUZZ_CASES: cases for each op, PLANISH_FUZZ_SEED: another sequence of them.
int64_t setting(const char* name, int64_t fallback) {
    const char* text = std::getenv(name);
    return text ? std::atoll(text) : fallback;
}

/// One node to be: constants have a tensor, graph inputs only a type, omitted inputs neither.
struct Operand {
    std::optional<Tensor> constant;
    Type type;
    bool omitted = false;
};

struct Case {
    std::vector<Operand> operands;
    Attributes attributes;
    int outputs = 1;
};

class Mutator {
  public:
    Mutator(const OpDef& op, uint64_t seed) : op_(op), random_(seed) {}

    Case make() {
        const auto& seeds = hostile_seeds(op_.name);
        if (!seeds.empty() && below(6) != 0) {
            Case c = from_text(seeds[below(seeds.size())]);
            for (size_t n = below(4); n > 0; --n) mutate(c);
            return c;
        }
        Case c;
        const int most = op_.max_inputs < 0 ? op_.min_inputs + 3 : op_.max_inputs;
        const int count = op_.min_inputs + static_cast<int>(below(static_cast<size_t>(most - op_.min_inputs) + 1));
        base_ = dims();
        for (int i = 0; i < count; ++i) c.operands.push_back(operand(i));
        for (const AttrDef& def : op_.attributes)
            if (def.required || below(3) == 0) c.attributes[def.name] = attribute(def.type);
        const int outputs = op_.max_outputs < 0 ? op_.min_outputs + 2 : op_.max_outputs;
        c.outputs = op_.min_outputs + static_cast<int>(below(static_cast<size_t>(outputs - op_.min_outputs) + 1));
        return c;
    }

    Tensor random_tensor(DType dtype, const Dims& dims) {
        Tensor tensor(dtype, dims);
        if (dtype == DType::string) {
            for (std::string& s : tensor.strings()) s = text();
            return tensor;
        }
        if (dtype == DType::c64 || dtype == DType::c128) return tensor;
        const bool wild = below(8) == 0;
        for (int64_t i = 0; i < tensor.size(); ++i)
            tensor.set_double(i, is_float(dtype) ? (wild ? real() : static_cast<double>(below(9)) / 4 - 1)
                                 : wild          ? static_cast<double>(integer())
                                                 : static_cast<double>(below(5)) - 1);
        return tensor;
    }

    size_t below(size_t bound) { return random_() % bound; }

  private:
    Case from_text(std::string_view text) {
        const auto graph = parse_graph(text);
        const Node& node = *graph->nodes().back();
        Case c;
        c.attributes = node.attributes;
        c.outputs = static_cast<int>(node.outputs().size());
        for (const Value* input : node.inputs()) {
            Operand operand;
            operand.omitted = input == nullptr;
            if (input) operand.type = input->type;
            if (input && input->is_constant()) operand.constant = *input->constant;
            c.operands.push_back(std::move(operand));
        }
        return c;
    }

    void mutate(Case& c) {
        switch (below(8)) {
            case 0:
            case 1:
            case 2:
                if (op_.attributes.empty()) return;
                mutate_attribute(c, op_.attributes[below(op_.attributes.size())]);
                return;
            case 3:
                if (!c.operands.empty() && below(3) == 0) c.operands.pop_back();
                return;
            case 4:
                c.operands.push_back(operand(static_cast<int>(c.operands.size())));
                return;
            case 5:
                if (below(2) == 0) c.outputs = static_cast<int>(below(5));
                return;
            default:
                if (c.operands.empty()) return;
                mutate_operand(c.operands[below(c.operands.size())]);
        }
    }

    void mutate_attribute(Case& c, const AttrDef& def) {
        auto it = c.attributes.find(def.name);
        auto* list = it == c.attributes.end() ? nullptr : std::get_if<std::vector<int64_t>>(&it->second);
        if (list && !list->empty() && below(3) != 0)
            (*list)[below(list->size())] = integer();
        else if (it != c.attributes.end() && below(8) == 0)
            c.attributes.erase(it);
        else
            c.attributes[def.name] = attribute(def.type);
    }

    void mutate_operand(Operand& o) {
        if (below(12) == 0) {
            o.omitted = true;
            return;
        }
        if (o.constant) {
            const DType dtype = below(6) == 0 ? any_dtype() : o.constant->dtype();
            Dims dims = o.constant->dims();
            if (below(2) == 0) mutate_dims(dims);
            if (element_count(dims) < 4096) o.constant = random_tensor(dtype, dims);
            if (below(2) == 0 && o.constant->dtype() == DType::i64 && o.constant->size() > 0)
                o.constant->data<int64_t>()[below(static_cast<size_t>(o.constant->size()))] = integer();
            return;
        }
        if (below(5) == 0) o.type.dtype = any_dtype();
        if (!o.type.shape) return;
        const auto fixed = static_dims(*o.type.shape);
        Dims dims = fixed ? *fixed : Dims{1, 2};
        if (below(3) != 0) mutate_dims(dims);
        o.type.shape = to_shape(dims);
        if (below(4) == 0 && !dims.empty()) (*o.type.shape)[below(dims.size())] = Dim::symbol("N");
        if (below(16) == 0) o.type.shape.reset();
    }

    void mutate_dims(Dims& dims) {
        const size_t what = below(6);
        if (what == 0 && !dims.empty())
            dims.pop_back();
        else if (what == 1)
            dims.push_back(1 + static_cast<int64_t>(below(3)));
        else if (!dims.empty())
            dims[below(dims.size())] = static_cast<int64_t>(below(6));
    }

    Operand operand(int index) {
        Operand o;
        if (index >= op_.min_inputs && below(5) == 0) {
            o.omitted = true;
        } else if (below(4) == 0) {
            o.constant = random_tensor(DType::i64, {static_cast<int64_t>(below(6))});
            if (below(4) == 0) o.constant = random_tensor(DType::i64, {});
        } else {
            const DType dtype = below(4) != 0 ? DType::f32 : any_dtype();
            const Dims shape = below(3) != 0 ? base_ : dims();
            if (below(4) == 0)
                o.constant = random_tensor(dtype, shape);
            else
                o.type = {Kind::tensor, dtype, to_shape(shape), Kind::tensor};
            if (below(30) == 0) o.type.kind = below(2) ? Kind::sequence : Kind::optional;
        }
        return o;
    }

    Dims dims() {
        Dims d(below(6));
        for (int64_t& size : d) size = below(12) == 0 ? 0 : 1 + static_cast<int64_t>(below(4));
        return d;
    }

    DType any_dtype() { return static_cast<DType>(1 + below(static_cast<size_t>(DType::i2))); }

    int64_t integer() {
        static constexpr int64_t kWild[] = {kMax,      kMin,    kMax - 1,     kMin + 1,    1LL << 31, -(1LL << 31),
                                            1LL << 40, 1 << 20, -(1LL << 40), (1LL << 62), 1000,      (1LL << 32) + 1};
        const size_t kind = below(10);
        if (kind < 6) return static_cast<int64_t>(below(5)) - 1;
        if (kind < 8) return static_cast<int64_t>(below(24)) - 8;
        return kWild[below(std::size(kWild))];
    }

    double real() {
        static constexpr double kValues[] = {0,     1,     -1,       0.5,       2,   -0.0, 1e300,
                                             -1e30, 1e-30, HUGE_VAL, -HUGE_VAL, NAN, 3.7,  1e9};
        return kValues[below(std::size(kValues))];
    }

    std::string text() {
        static constexpr std::string_view kWords[] = {"",
                                                      "NOTSET",
                                                      "SAME_UPPER",
                                                      "SAME_LOWER",
                                                      "VALID",
                                                      "linear",
                                                      "nearest",
                                                      "cubic",
                                                      "floor",
                                                      "ceil",
                                                      "half_pixel",
                                                      "constant",
                                                      "edge",
                                                      "reflect",
                                                      "wrap",
                                                      "zeros",
                                                      "border",
                                                      "reflection",
                                                      "avg",
                                                      "max",
                                                      "none",
                                                      "add",
                                                      "mul",
                                                      "min",
                                                      "mean",
                                                      "sum",
                                                      "DCR",
                                                      "CRD",
                                                      "forward",
                                                      "reverse",
                                                      "LEFT",
                                                      "RIGHT",
                                                      "tanh",
                                                      "bidirectional",
                                                      "Tanh",
                                                      "Sigmoid",
                                                      "TF",
                                                      "IDF",
                                                      "TFIDF",
                                                      "UPPER",
                                                      "LOWER",
                                                      "circular",
                                                      "sequence",
                                                      "ij,jk->ik",
                                                      "ii->i",
                                                      "...ij->...ji",
                                                      "i,j",
                                                      "->",
                                                      "...,",
                                                      "i->ij",
                                                      "(a*)*$",
                                                      "[",
                                                      "not_larger",
                                                      "stretch",
                                                      "align_corners",
                                                      "asymmetric",
                                                      "tf_crop_and_resize",
                                                      "round_prefer_ceil",
                                                      "pointwise",
                                                      "conv",
                                                      "\xff\xfe"};
        return std::string(kWords[below(std::size(kWords))]);
    }

    Attribute attribute(AttrType type) {
        const size_t length = below(6);
        switch (type) {
            case AttrType::integer:
                return integer();
            case AttrType::real:
                return real();
            case AttrType::text:
                return text();
            case AttrType::integers: {
                std::vector<int64_t> list(length);
                for (int64_t& v : list) v = integer();
                return list;
            }
            case AttrType::reals: {
                std::vector<double> list(length);
                for (double& v : list) v = real();
                return list;
            }
            case AttrType::texts: {
                std::vector<std::string> list(length);
                for (std::string& v : list) v = text();
                return list;
            }
            case AttrType::tensor:
                return random_tensor(any_dtype(), dims());
            case AttrType::graph: {
                const auto& bodies = hostile_bodies();
                return GraphPtr(parse_graph(bodies[below(bodies.size())]));
            }
        }
        return int64_t{0};
    }

    const OpDef& op_;
    std::mt19937_64 random_;
    Dims base_;
};

/// A graph of that one node. The op's rule refuses most of what is wrong at once.
std::unique_ptr<Graph> graph_of(const OpDef& op, const Case& c) {
    auto graph = std::make_unique<Graph>("g");
    std::vector<Value*> inputs;
    for (const Operand& o : c.operands) {
        if (o.omitted)
            inputs.push_back(nullptr);
        else if (o.constant)
            inputs.push_back(graph->add_constant("c" + std::to_string(inputs.size()), *o.constant));
        else
            inputs.push_back(graph->add_input("x" + std::to_string(inputs.size()), o.type));
    }
    Node* node = graph->add_node(op.name, inputs, c.attributes, c.outputs, "node", nullptr, op.domain);
    for (Value* output : node->outputs())
        if (output) graph->add_output(output);
    return graph;
}

void run(std::span<const std::byte> bytes, const LoadOptions& options, const TensorMap& feeds) {
    try {
        load(bytes, options).run(feeds);
    } catch (const Error&) {
        // What a stranger's plan may lead to.
    }
}

std::string name_of(const OpDef& op) {
    return (op.domain.empty() ? "" : std::string(op.domain) + "_") + std::string(op.name);
}

class HostileGraph : public testing::TestWithParam<const OpDef*> {};

TEST_P(HostileGraph, GivesAnErrorOrAResult) {
    const MemoryLimit limit(int64_t{64} << 20);
    const OpDef& op = *GetParam();
    const auto cases = setting("PLANISH_FUZZ_CASES", 60);
    const auto first = setting("PLANISH_FUZZ_SEED", 1);
    for (int64_t i = 0; i < cases; ++i) {
        Mutator mutator(op, static_cast<uint64_t>(first + i));
        SCOPED_TRACE("PLANISH_FUZZ_SEED=" + std::to_string(first + i));
        std::vector<std::byte> bytes;
        TensorMap feeds;
        try {
            const Case c = mutator.make();
            const auto graph = graph_of(op, c);
            if (setting("PLANISH_FUZZ_PRINT", 0)) std::fprintf(stderr, "%s\n", print(*graph).c_str());
            check(*graph);
            for (const Value* input : graph->inputs()) {
                Dims dims;
                if (input->type.shape)
                    for (const Dim& d : *input->type.shape) dims.push_back(d.value().value_or(2));
                if (input->type.kind == Kind::tensor)
                    feeds[input->name] = mutator.random_tensor(input->type.dtype, dims);
            }
            plan::PlanContents contents;
            contents.graph = graph->clone();
            bytes = plan::write_bytes(contents);
        } catch (const Error&) {
            continue;
        }
        run(bytes, {.device = "cpu", .threads = 1}, feeds);
        run(bytes, {.device = "cpu", .threads = 1, .only_reference = true}, feeds);
    }
}

std::vector<const OpDef*> every_op() {
    std::vector<const OpDef*> ops;
    for (const OpDef& op : all_ops()) ops.push_back(&op);
    return ops;
}

INSTANTIATE_TEST_SUITE_P(Ops, HostileGraph, testing::ValuesIn(every_op()),
                         [](const auto& info) { return name_of(*info.param); });

}  // namespace
}  // namespace planish
