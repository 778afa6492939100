// Plan reader: checks a description that may be hostile and rebuilds the graph over the mapped weights.
#include <algorithm>
#include <unordered_map>

#include "backends/packing.hpp"
#include "base/aligned_buffer.hpp"
#include "base/mapped_file.hpp"
#include "base/sparse_tensor.hpp"
#include "base/thread_pool.hpp"
#include "plan/container.hpp"
#include "plan/plan_io.hpp"
#include "plan_generated.h"
#include "planish/error.hpp"

namespace planish::plan {
namespace {

using flatbuffers::Vector;

constexpr int64_t kMaxRank = 64;

[[noreturn]] void damaged(const std::string& what) {
    fail(ErrorCode::invalid_plan, "the plan is damaged: " + what, "build it again, or copy it again from its source");
}

template <typename T>
const T& need(const T* pointer, const char* what) {
    if (pointer == nullptr) damaged(std::string(what) + " is missing");
    return *pointer;
}

std::string text(const flatbuffers::String* s) {
    return s ? s->str() : std::string();
}

template <typename T>
size_t count(const Vector<T>* list) {
    return list ? list->size() : 0;
}

template <typename T>
std::vector<T> numbers(const Vector<T>* list) {
    return list ? std::vector<T>(list->begin(), list->end()) : std::vector<T>();
}

std::vector<std::string> texts(const Vector<flatbuffers::Offset<flatbuffers::String>>* list) {
    std::vector<std::string> result;
    result.reserve(count(list));
    for (size_t i = 0; i < count(list); ++i) result.push_back(text((*list)[static_cast<unsigned>(i)]));
    return result;
}

/// Calls fn(row) for every row of a vector of tables that may be absent.
template <typename T, typename Fn>
void each(const Vector<flatbuffers::Offset<T>>* list, Fn&& fn) {
    if (list)
        for (const T* row : *list) fn(need(row, "a table"));
}

StringPairs pairs(const Vector<flatbuffers::Offset<fbs::Pair>>* list) {
    StringPairs result;
    each(list, [&](const fbs::Pair& p) { result.emplace_back(text(p.key()), text(p.value())); });
    return result;
}

DType read_dtype(uint8_t value) {
    if (value > static_cast<uint8_t>(DType::i2)) damaged("element type " + std::to_string(value) + " does not exist");
    return static_cast<DType>(value);
}

Kind read_kind(uint8_t value) {
    if (value > static_cast<uint8_t>(Kind::optional))
        damaged("value kind " + std::to_string(value) + " does not exist");
    return static_cast<Kind>(value);
}

Dims read_dims(const Vector<int64_t>* list) {
    if (count(list) > kMaxRank) damaged("a tensor has " + std::to_string(count(list)) + " dimensions");
    return numbers(list);
}

class Reader {
  public:
    Reader(std::span<const std::byte> file, std::shared_ptr<const void> keep_alive, const ReadOptions& options)
        : file_(file), keep_alive_(std::move(keep_alive)), options_(options) {}

    PlanContents read() {
        const Header header = read_header();
        const auto description = file_.subspan(header.description_offset, header.description_bytes);
        if (checksum(description.data(), description.size()) != header.description_checksum)
            damaged("its description does not match its checksum");
        const auto* data = reinterpret_cast<const uint8_t*>(description.data());
        flatbuffers::Verifier verifier(data, description.size(), 4 * kMaxNesting + 16, 50'000'000);
        if (description.size() < 16 || !fbs::VerifyPlanBuffer(verifier)) damaged("its description is malformed");
        const fbs::Plan& plan = *fbs::GetPlan(data);

        read_blobs(plan.blobs(), header.description_offset);
        PlanContents contents;
        contents.graph = read_graph(need(plan.graph(), "the graph"), 0);
        check(*contents.graph);
        each(plan.profiles(),
             [&](const fbs::Profile& p) { contents.profiles.push_back(read_profile(p, *contents.graph)); });
        each(plan.sections(), [&](const fbs::Section& s) {
            Section section{text(s.target()), {}, s.threads(), "fp32", {}};
            if (s.precision()) section.precision = text(s.precision());
            each(s.binaries(), [&](const fbs::Binary& binary) {
                const auto blob = static_cast<size_t>(binary.blob());
                if (binary.blob() < 0 || blob >= blobs_.size() || blobs_[blob].empty())
                    damaged("the code of kernel '" + text(binary.key()) + "' is not there");
                section.binaries.push_back({text(binary.key()), blobs_[blob], keep_alive_});
            });
            for (auto& [region, implementation] : pairs(s.tactics()))
                section.tactics.push_back({std::move(region), std::move(implementation)});
            contents.sections.push_back(std::move(section));
        });
        if (plan.provenance()) contents.provenance = read_provenance(*plan.provenance());
        return contents;
    }

  private:
    Header read_header() const {
        if (const std::string found = describe_foreign(file_); !found.empty()) {
            std::string hint = "give the path of a .plan file that `planish build` wrote";
            if (found == "an ONNX model") hint = "build a plan from it first: planish build MODEL.onnx -o MODEL.plan";
            fail(ErrorCode::invalid_plan, "this is not a plan: it is " + found, hint);
        }
        Header header;
        if (file_.size() < sizeof header) damaged("it ends inside its header");
        std::memcpy(&header, file_.data(), sizeof header);
        if (header_checksum(header) != header.header_checksum) damaged("its header does not match its checksum");
        if (header.version < kPlainVersion || header.version > kFormatVersion)
            fail(ErrorCode::unsupported,
                 "the plan has format version " + std::to_string(header.version) +
                     ", this build of Planish reads up to " + std::to_string(kFormatVersion),
                 "use the version of Planish that built it, or build the plan again");
        if (header.file_bytes != file_.size())
            damaged("it should have " + std::to_string(header.file_bytes) + " bytes and has " +
                    std::to_string(file_.size()));
        const uint64_t end = header.file_bytes;
        if (header.description_offset % kAlignment != 0 || header.description_offset < sizeof(Header) ||
            header.description_offset > end || header.description_bytes != end - header.description_offset)
            damaged("its description lies outside the file");
        return header;
    }

    void read_blobs(const Vector<const fbs::Blob*>* blobs, uint64_t end) {
        for (size_t i = 0; i < count(blobs); ++i) {
            const fbs::Blob& blob = *(*blobs)[static_cast<unsigned>(i)];
            if (blob.offset() % kAlignment != 0 || blob.offset() < sizeof(Header) || blob.offset() > end ||
                blob.bytes() > end - blob.offset())
                damaged("weight block " + std::to_string(i) + " lies outside the file");
            blobs_.push_back(file_.subspan(blob.offset(), blob.bytes()));
        }
        if (!options_.verify_blobs) return;
        std::vector<char> damage(blobs_.size(), 0);
        const auto verify = [&](int64_t i, int) {
            const auto index = static_cast<size_t>(i);
            const std::span<const std::byte> bytes = blobs_[index];
            damage[index] = checksum(bytes.data(), bytes.size()) != (*blobs)[static_cast<unsigned>(i)]->checksum();
        };
        ThreadPool& pool = ThreadPool::process();
        pool.parallel_for(static_cast<int64_t>(blobs_.size()), pool.size(), verify);
        if (const auto first = std::find(damage.begin(), damage.end(), 1); first != damage.end())
            damaged("weight block " + std::to_string(first - damage.begin()) + " does not match its checksum");
    }

    /// Weights in the order of a kernel. Constants that share a blob share what is made of it.
    Tensor read_packed(const fbs::TensorData& t, const fbs::Packing& p, Dims dims, int64_t elements,
                       const std::string& name) {
        const Packing packing{p.k(),      p.n(),          p.groups(), p.taps(),    p.nr(),
                              p.vector(), p.transposed(), p.bytes(),  p.segments()};
        if (read_dtype(t.dtype()) != packing.dtype() || t.blob() < 0 || !packing.is_valid_for(elements))
            damaged("constant '" + name + "' of shape " + to_string(dims) + " cannot be packed as " +
                    to_string(packing));
        const std::span<const std::byte> bytes = blob_of(t, name);
        if (bytes.size() != static_cast<size_t>(packing.size()) * sizeof(float))
            damaged("constant '" + name + "' packed as " + to_string(packing) + " needs " +
                    std::to_string(packing.size()) + " elements of four bytes and has " + std::to_string(bytes.size()) +
                    " bytes");
        auto& known = packed_[t.blob()];
        for (const auto& source : known)
            if (source->packing() == packing) return Tensor(packing.dtype(), std::move(dims), source);
        known.push_back(std::make_shared<const PackedSource>(
            Tensor(DType::f32, {packing.size()}, bytes.data(), keep_alive_), packing));
        return Tensor(packing.dtype(), std::move(dims), known.back());
    }

    /// Weights that are mostly zero.
    Tensor read_sparse(const fbs::TensorData& t, DType dtype, Dims dims, int64_t elements, const std::string& name) {
        if (t.blob() < 0) damaged("constant '" + name + "' is compressed and has no weight block");
        const std::span<const std::byte> bytes = blob_of(t, name);
        if (!SparseSource::is_valid(dtype, elements, bytes))
            damaged("constant '" + name + "' of shape " + to_string(dims) + " cannot be restored from the " +
                    std::to_string(bytes.size()) + " bytes that it was compressed to");
        return Tensor(dtype, std::move(dims),
                      std::make_shared<const SparseSource>(
                          dtype, elements, Tensor(DType::u8, {std::ssize(bytes)}, bytes.data(), keep_alive_)));
    }

    std::span<const std::byte> blob_of(const fbs::TensorData& t, const std::string& name) const {
        if (static_cast<size_t>(t.blob()) >= blobs_.size())
            damaged("constant '" + name + "' names weight block " + std::to_string(t.blob()) + " of " +
                    std::to_string(blobs_.size()));
        return blobs_[static_cast<size_t>(t.blob())];
    }

    Tensor read_tensor(const fbs::TensorData& t, const std::string& name) {
        const DType dtype = read_dtype(t.dtype());
        if (dtype == DType::undefined) damaged("constant '" + name + "' has no element type");
        Dims dims = read_dims(t.dims());
        int64_t elements = 1;
        for (int64_t d : dims)
            if (d < 0 || __builtin_mul_overflow(elements, d, &elements) || elements > (int64_t{1} << 56))
                damaged("constant '" + name + "' has the impossible shape " + to_string(dims));
        if (dtype == DType::string) {
            std::vector<std::string> values = texts(t.strings());
            if (static_cast<int64_t>(values.size()) != elements)
                damaged("constant '" + name + "' has " + std::to_string(values.size()) + " strings for its shape " +
                        to_string(dims));
            return Tensor::from_strings(std::move(values), std::move(dims));
        }
        if (t.packing()) return read_packed(t, *t.packing(), std::move(dims), elements, name);
        if (t.sparse()) return read_sparse(t, dtype, std::move(dims), elements, name);
        const auto bytes = static_cast<uint64_t>(byte_size(dtype, elements));
        const bool in_blob = t.blob() >= 0;
        const uint64_t given = in_blob ? blob_of(t, name).size() : count(t.bytes());
        if (given != bytes)
            damaged("constant '" + name + "' of shape " + to_string(dims) + " needs " + std::to_string(bytes) +
                    " bytes and has " + std::to_string(given));
        if (in_blob) return Tensor(dtype, std::move(dims), blobs_[static_cast<size_t>(t.blob())].data(), keep_alive_);
        Tensor tensor(dtype, std::move(dims));
        if (bytes > 0) std::memcpy(tensor.raw(), t.bytes()->data(), bytes);
        return tensor;
    }

    /// Unknown dimensions of the plan ("?3") become unknowns of this process that nothing else equals.
    std::string renumber(const std::string& dim) {
        std::string result;
        bool quoted = false;
        for (size_t i = 0; i < dim.size();) {
            if (dim[i] == '\'') quoted = !quoted;
            if (quoted || dim[i] != '?') {
                result += dim[i++];
                continue;
            }
            size_t end = i + 1;
            while (end < dim.size() && dim[end] >= '0' && dim[end] <= '9') ++end;
            std::string& fresh = unknowns_[dim.substr(i, end - i)];
            if (fresh.empty()) fresh = Dim::unknown().to_string();
            result += fresh;
            i = end;
        }
        return result;
    }

    Type read_type(const fbs::Type& t) {
        Type type{read_kind(t.kind()), read_dtype(t.dtype()), std::nullopt, read_kind(t.element_kind())};
        if (t.shape() == nullptr) return type;
        const Dims dims = read_dims(t.shape()->dims());
        const std::vector<std::string> symbols = texts(t.shape()->symbols());
        if (!symbols.empty() && symbols.size() != dims.size()) damaged("a shape and its symbols differ in length");
        Shape shape;
        for (size_t i = 0; i < dims.size(); ++i) {
            if (!symbols.empty() && !symbols[i].empty()) {
                if (symbols[i].size() > 4096) damaged("a dimension's expression is too long");
                shape.push_back(Dim::parse(renumber(symbols[i])));
            } else {
                if (dims[i] < 0 || dims[i] > (int64_t{1} << 56)) damaged("a shape has a dimension of impossible size");
                shape.emplace_back(dims[i]);
            }
        }
        type.shape = std::move(shape);
        return type;
    }

    Attribute read_attribute(const fbs::Attribute& a, const std::string& where, int depth) {
        switch (static_cast<AttrType>(a.type())) {
            case AttrType::integer:
                return a.i();
            case AttrType::real:
                return a.f();
            case AttrType::text:
                return text(a.s());
            case AttrType::integers:
                return numbers(a.is());
            case AttrType::reals:
                return numbers(a.fs());
            case AttrType::texts:
                return texts(a.ss());
            case AttrType::tensor:
                return read_tensor(need(a.t(), "a tensor attribute"), where);
            case AttrType::graph:
                return GraphPtr(read_graph(need(a.g(), "a body"), depth + 1));
        }
        damaged("attribute '" + where + "' has no known type");
    }

    Attributes read_attributes(const fbs::Node& n, const OpDef& op, const std::string& name, int depth) {
        Attributes attributes;
        each(n.attributes(), [&](const fbs::Attribute& a) {
            const std::string key = text(a.name());
            const AttrDef* def = op.attribute(key);
            if (def == nullptr || static_cast<uint8_t>(def->type) != a.type())
                damaged("node '" + name + "' (" + std::string(op.name) + ") has an attribute '" + key +
                        "' that its operator does not have");
            if (!attributes.try_emplace(key, read_attribute(a, name + "." + key, depth)).second)
                damaged("node '" + name + "' has attribute '" + key + "' twice");
        });
        for (const AttrDef& def : op.attributes)
            if (def.required && !attributes.contains(def.name))
                damaged("node '" + name + "' misses its attribute '" + def.name + "'");
        return attributes;
    }

    std::unique_ptr<Graph> read_graph(const fbs::Graph& g, int depth) {
        if (depth > kMaxNesting) damaged("graphs are nested too deeply");
        auto graph = std::make_unique<Graph>(text(g.name()));
        graph->metadata = pairs(g.metadata());
        std::vector<Value*> values;
        auto keep = [&](Value* value, const std::string& name) {
            if (value->name != name) damaged("two values have the name '" + name + "'");
            values.push_back(value);
        };
        each(g.inputs(), [&](const fbs::Value& v) {
            const std::string name = text(v.name());
            keep(graph->add_input(name, read_type(need(v.type(), "an input's type"))), name);
        });
        each(g.constants(), [&](const fbs::Constant& c) {
            const std::string name = text(c.name());
            keep(graph->add_constant(name, read_tensor(need(c.tensor(), "a constant"), name)), name);
        });
        each(g.nodes(), [&](const fbs::Node& n) { read_node(n, *graph, values, keep, depth); });
        for (int index : numbers(g.outputs())) graph->add_output(value_at(values, index, "an output"));
        return graph;
    }

    Value* value_at(const std::vector<Value*>& values, int index, const std::string& who) const {
        if (index < 0 || static_cast<size_t>(index) >= values.size())
            damaged(who + " reads a value that is not defined before it");
        return values[static_cast<size_t>(index)];
    }

    template <typename Keep>
    void read_node(const fbs::Node& n, Graph& graph, const std::vector<Value*>& values, Keep&& keep, int depth) {
        const std::string name = text(n.name()), op_name = text(n.op()), domain = text(n.domain());
        const OpDef* op = find_op(op_name, domain);
        if (op == nullptr)
            fail(ErrorCode::unsupported,
                 "node '" + name + "' is a " + (domain.empty() ? "" : domain + ".") + op_name +
                     ", which this build of Planish does not have",
                 "use the version of Planish that built the plan");
        const auto outputs = static_cast<int>(count(n.outputs()));
        if (outputs < op->min_outputs || (op->max_outputs >= 0 && outputs > op->max_outputs))
            damaged("node '" + name + "' (" + op_name + ") has " + std::to_string(outputs) + " outputs");
        std::vector<Value*> inputs;
        for (int index : numbers(n.inputs()))
            inputs.push_back(index == -1 ? nullptr : value_at(values, index, "node '" + name + "'"));
        std::vector<std::string> output_names;
        std::vector<Type> types;
        each(n.outputs(), [&](const fbs::Value& v) {
            output_names.push_back(text(v.name()));
            types.push_back(read_type(need(v.type(), "an output's type")));
        });
        Node* node = graph.add_node(op_name, std::move(inputs), read_attributes(n, *op, name, depth), outputs, name,
                                    nullptr, domain, output_names);
        node->origins = texts(n.origins());
        for (int i = 0; i < outputs; ++i) {
            node->output(i)->type = std::move(types[static_cast<size_t>(i)]);
            keep(node->output(i), output_names[static_cast<size_t>(i)]);
        }
    }

    static Profile read_profile(const fbs::Profile& p, const Graph& graph) {
        auto lists = [&](const Vector<flatbuffers::Offset<fbs::DimList>>* rows) {
            std::vector<Dims> result;
            each(rows, [&](const fbs::DimList& row) { result.push_back(read_dims(row.dims())); });
            if (result.size() != graph.inputs().size()) damaged("a shape profile does not fit the graph's inputs");
            for (size_t i = 0; i < result.size(); ++i) {
                const auto& shape = graph.inputs()[i]->type.shape;
                bool fits = !shape || shape->size() == result[i].size();
                for (int64_t d : result[i]) fits = fits && d >= 0 && d < (int64_t{1} << 56);
                if (!fits) damaged("a shape profile does not fit input '" + graph.inputs()[i]->name + "'");
            }
            return result;
        };
        return {lists(p.min()), lists(p.opt()), lists(p.max())};
    }

    static Provenance read_provenance(const fbs::Provenance& p) {
        Provenance result;
        result.source = pairs(p.source());
        result.options = pairs(p.options());
        result.versions = pairs(p.versions());
        result.metadata = pairs(p.metadata());
        each(p.passes(), [&](const fbs::PassRow& row) {
            result.passes.push_back({text(row.name()), row.changes(), 0});
        });
        each(p.layers(), [&](const fbs::LayerRow& row) {
            result.layers.push_back({text(row.name()), texts(row.layers()), text(row.op()), text(row.implementation()),
                                     text(row.placement()), read_dtype(row.dtype()), row.flops(), row.bytes(),
                                     pairs(row.refused())});
        });
        each(p.verification(), [&](const fbs::VerificationRow& row) {
            result.verification.push_back({text(row.name()), texts(row.layers()), text(row.implementation()),
                                           row.error(), row.tolerance(), row.passed(), text(row.note())});
        });
        each(p.precision(), [&](const fbs::PrecisionRow& row) {
            result.precision.push_back({text(row.layer()), text(row.op()), text(row.before()), text(row.after()),
                                        row.sqnr(), text(row.note())});
        });
        each(p.output_errors(), [&](const fbs::OutputErrorRow& row) {
            result.output_errors.push_back({text(row.name()), row.sqnr(), row.cosine()});
        });
        each(p.mixes(), [&](const fbs::MixRow& row) {
            result.mixes.push_back({text(row.name()), row.layers(), row.seconds(), row.accuracy(), row.held_out(),
                                    row.met(), row.on_front(), row.chosen()});
        });
        return result;
    }

    std::span<const std::byte> file_;
    std::shared_ptr<const void> keep_alive_;
    ReadOptions options_;
    std::vector<std::span<const std::byte>> blobs_;
    std::unordered_map<int, std::vector<std::shared_ptr<const PackedSource>>> packed_;  // by blob
    std::unordered_map<std::string, std::string> unknowns_;
};

}  // namespace

PlanContents read(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive,
                  const ReadOptions& options) {
    // Weights and description are read in place, which needs the alignment that the file format promises.
    if (!keep_alive || reinterpret_cast<uintptr_t>(bytes.data()) % kAlignment != 0) {
        auto copy = std::make_shared<AlignedBuffer>(bytes.size());
        if (!bytes.empty()) std::memcpy(copy->data(), bytes.data(), bytes.size());
        bytes = {copy->data(), bytes.size()};
        keep_alive = std::move(copy);
    }
    try {
        return Reader(bytes, std::move(keep_alive), options).read();
    } catch (const Error& error) {
        // What the graph's own rules refuse is, here, damage of the file.
        if (error.code() == ErrorCode::internal || error.code() == ErrorCode::invalid_model ||
            error.code() == ErrorCode::invalid_argument)
            throw Error(ErrorCode::invalid_plan, "the plan is damaged: " + error.message(),
                        "build it again, or copy it again from its source");
        throw;
    }
}

PlanContents read(const std::filesystem::path& path, const ReadOptions& options) {
    auto file = std::make_shared<MappedFile>(path);
    const auto bytes = file->bytes();
    try {
        return read(bytes, std::move(file), options);
    } catch (const Error& error) {
        throw error.with_context("'" + path.string() + "'");
    }
}

}  // namespace planish::plan
