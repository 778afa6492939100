// Recognise softmax: exp(x - max x) / Σ exp(x - max x), with or without the shift, and log of it.
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// The one axis that `reduce` reduces with its size kept, in [0, rank).
std::optional<int64_t> reduced_axis(const Node* reduce) {
    const auto axes = integers(reduce->input(1));
    const auto r = rank(reduce->input(0));
    if (!axes || axes->size() != 1 || !r || reduce->integer("keepdims") == 0) return std::nullopt;
    return axes->front() < 0 ? axes->front() + *r : axes->front();
}

bool recognise(Graph& graph, Node* exp) {
    Value* e = exp->output();
    if (e->uses.size() != 2 || graph.is_output(e)) return false;
    Node* sum = nullptr;
    Node* div = nullptr;
    for (const Use& use : e->uses) {
        if (use.node->is("ReduceSum")) sum = use.node;
        if (use.node->is("Div") && use.index == 0) div = use.node;
    }
    if (sum == nullptr || div == nullptr || div->input(1) != sum->output() || !only_use(graph, sum->output()))
        return false;
    const auto axis = reduced_axis(sum);
    if (!axis) return false;
    Value* x = exp->input(0);
    const Node* shift = producer(x, "Sub");
    const Node* max = shift != nullptr ? producer(shift->input(1), "ReduceMax") : nullptr;
    if (max != nullptr && max->input(0) == shift->input(0) && reduced_axis(max) == axis) x = shift->input(0);
    Node* softmax = graph.add_node("Softmax", {x}, {{"axis", *axis}}, 1, div->name, div);
    softmax->origins = origins_of(*exp);
    add_origins(softmax, {sum, div});
    replace(graph, div, softmax->output());
    return true;
}

}  // namespace

int recognise_softmax(Graph& graph) {
    int changes = 0;
    for (Node* exp : nodes_of(graph, {"Exp"})) changes += recognise(graph, exp) ? 1 : 0;
    // log softmax(x) = LogSoftmax(x): one pass less, and no log of zero.
    for (Node* log : nodes_of(graph, {"Log"})) {
        Node* softmax = producer(log->input(0), "Softmax");
        if (softmax == nullptr || !only_use(graph, softmax->output())) continue;
        Node* both =
            graph.add_node("LogSoftmax", {softmax->input(0)}, {{"axis", softmax->integer("axis")}}, 1, log->name, log);
        both->origins = origins_of(*softmax);
        add_origins(both, {log});
        replace(graph, log, both->output());
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
