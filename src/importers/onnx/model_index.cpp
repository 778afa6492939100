// Functions, opsets, and the pre-flight that lists all missing operators at once.
#include "importers/onnx/model_index.hpp"

#include <fmt/format.h>
#include <onnx/checker.h>
#include <onnx/defs/schema.h>

#include <set>

#include "importers/onnx/draft.hpp"
#include "ir/op.hpp"
#include "planish/error.hpp"

namespace planish::onnx_import {

std::string normal_domain(const std::string& domain) {
    return domain == "ai.onnx" ? "" : domain;
}

std::string operator_name(const std::string& domain, const std::string& op) {
    return domain.empty() ? op : domain + "." + op;
}

Opsets read_opsets(const google::protobuf::RepeatedPtrField<pb::OperatorSetIdProto>& imports,
                   const std::string& owner) {
    const int newest = pb::OpSchemaRegistry::DomainToVersionRange::Instance().Map().at("").second;
    Opsets opsets;
    for (const auto& import : imports) {
        const std::string domain = normal_domain(import.domain());
        const auto [it, inserted] = opsets.emplace(domain, import.version());
        if (!inserted && it->second != import.version())
            fail(ErrorCode::invalid_model,
                 fmt::format("{} imports two opsets of domain '{}': {} and {}", owner, domain, it->second,
                             import.version()),
                 "export the model again");
        if (domain.empty() && import.version() > newest)
            fail(ErrorCode::unsupported,
                 fmt::format("{} uses ONNX opset {}; this build knows up to {}", owner, import.version(), newest),
                 fmt::format("export with opset_version={} or lower, or use a newer Planish", newest));
        if (domain.empty() && import.version() < 1)
            fail(ErrorCode::invalid_model,
                 fmt::format("{} uses ONNX opset {}, which does not exist", owner, import.version()),
                 "export the model again");
    }
    return opsets;
}

ModelIndex::ModelIndex(const pb::ModelProto& model) : model_(model) {
    try {
        pb::checker::check_function_call_cycles(model);
    } catch (const std::exception& e) {
        fail(ErrorCode::invalid_model, std::string("the model's functions are not usable: ") + e.what(),
             "export the model again");
    }
    for (const auto& f : model.functions())
        functions_.emplace(Key{normal_domain(f.domain()), f.name(), f.overload()}, &f);
}

const pb::FunctionProto* ModelIndex::local_function(const pb::NodeProto& node) const {
    if (functions_.empty()) return nullptr;
    const auto it = functions_.find({normal_domain(node.domain()), node.op_type(), node.overload()});
    return it == functions_.end() ? nullptr : it->second;
}

const pb::OpSchema* schema_of(const pb::NodeProto& node, int64_t version) {
    return pb::OpSchemaRegistry::Schema(node.op_type(), static_cast<int>(version), normal_domain(node.domain()));
}

FunctionBody schema_function(const pb::NodeProto& node, int64_t version,
                             const std::vector<pb::TypeProto>& input_types) {
    const pb::OpSchema* schema = schema_of(node, version);
    if (schema == nullptr) return {};
    auto best = [&](const std::vector<int>& versions) {
        int found = -1;
        for (int v : versions)
            if (v <= version) found = std::max(found, v);
        return found;
    };
    if (const int v = best(schema->function_opset_versions()); v >= 0)
        if (const auto* body = schema->GetFunction(v)) return {body, nullptr, true};
    if (const int v = best(schema->context_dependent_function_opset_versions()); v >= 0) {
        auto body = std::make_shared<pb::FunctionProto>();
        const pb::FunctionBodyBuildContextImpl context(node, input_types);
        if (schema->BuildContextDependentFunction(context, *body, v)) return {body.get(), body, true};
    }
    return {};
}

namespace {

struct Gap {
    int count = 0;
    std::string first;  // node
};

class GapScan {
  public:
    explicit GapScan(const ModelIndex& index) : index_(index) {}

    void nodes(const google::protobuf::RepeatedPtrField<pb::NodeProto>& list, const Opsets& opsets) {
        for (const auto& node : list) {
            for (const auto& attribute : node.attribute()) {
                if (attribute.has_g()) nodes(attribute.g().node(), opsets);
                for (const auto& g : attribute.graphs()) nodes(g.node(), opsets);
            }
            if (const auto* function = index_.local_function(node)) {
                if (seen_.insert(function).second) {
                    Opsets own = read_opsets(function->opset_import(), "function '" + function->name() + "'");
                    own.insert(opsets.begin(), opsets.end());
                    nodes(function->node(), own);
                }
                continue;
            }
            const std::string domain = normal_domain(node.domain());
            const auto version = opsets.find(domain);
            if (is_known(node, domain, version == opsets.end() ? 0 : version->second)) continue;
            Gap& gap = gaps[operator_name(domain, node.op_type())];
            if (gap.count++ == 0)
                gap.first = !node.name().empty()     ? node.name()
                            : node.output_size() > 0 ? "the one that makes " + node.output(0)
                                                     : "unnamed";
        }
    }

    std::map<std::string, Gap> gaps;

  private:
    static bool is_known(const pb::NodeProto& node, const std::string& domain, int64_t version) {
        if (find_op(node.op_type(), domain) || next_adapter(domain, node.op_type(), version)) return true;
        if (domain.empty() && node.op_type() == "Constant") return true;
        const pb::OpSchema* schema = schema_of(node, version);
        return schema && (schema->HasFunction() || schema->HasContextDependentFunction());
    }

    const ModelIndex& index_;
    std::set<const pb::FunctionProto*> seen_;
};

// How many nodes a list becomes when calls are expanded; saturates instead of overflowing.
class ExpandedSize {
  public:
    explicit ExpandedSize(const ModelIndex& index) : index_(index) {}

    int64_t of(const google::protobuf::RepeatedPtrField<pb::NodeProto>& nodes) {
        int64_t total = 0;
        for (const auto& node : nodes) {
            total += 1;
            for (const auto& attribute : node.attribute()) {
                if (attribute.has_g()) total += of(attribute.g().node());
                for (const auto& g : attribute.graphs()) total += of(g.node());
            }
            if (const auto* function = index_.local_function(node)) {
                if (const auto it = known_.find(function); it != known_.end())
                    total += it->second;
                else
                    total += known_[function] = of(function->node());
            }
            total = std::min(total, int64_t{1} << 40);
        }
        return total;
    }

  private:
    const ModelIndex& index_;
    std::map<const pb::FunctionProto*, int64_t> known_;
};

}  // namespace

void ModelIndex::require_bounded_size() const {
    constexpr int64_t kMaxNodes = 4'000'000;
    const int64_t size = ExpandedSize(*this).of(model_.graph().node());
    if (size > kMaxNodes)
        fail(ErrorCode::resource_exhausted,
             fmt::format("the model has more than {} nodes when its functions are expanded", kMaxNodes),
             "export a smaller model");
}

void ModelIndex::require_known_operators() const {
    GapScan scan(*this);
    scan.nodes(model_.graph().node(), read_opsets(model_.opset_import(), "the model"));
    if (scan.gaps.empty()) return;
    constexpr size_t kShown = 50;
    std::string list;
    size_t shown = 0;
    for (const auto& [name, gap] : scan.gaps) {
        if (++shown > kShown) {
            list += fmt::format(", and {} more", scan.gaps.size() - kShown);
            break;
        }
        list += fmt::format("{}{} ({} node{}, first: '{}')", list.empty() ? "" : ", ", name, gap.count,
                            gap.count == 1 ? "" : "s", gap.first);
    }
    fail(ErrorCode::unsupported,
         fmt::format("the model uses {} operator{} that this build cannot run: {}", scan.gaps.size(),
                     scan.gaps.size() == 1 ? "" : "s", list),
         "export with standard ONNX operators, or give each one as a model-local function");
}

}  // namespace planish::onnx_import
