// Plan writer: PlanContents -> description + blobs, each distinct weight once, deterministic.
#include <algorithm>
#include <limits>
#include <map>
#include <unordered_map>

#include "backends/packing.hpp"
#include "base/atomic_file.hpp"
#include "base/sparse_tensor.hpp"
#include "plan/container.hpp"
#include "plan/plan_io.hpp"
#include "plan_generated.h"
#include "planish/error.hpp"

namespace planish::plan {
namespace {

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;
using flatbuffers::Vector;

/// The large tensors in the order met, one entry for each distinct content.
class BlobTable {
  public:
    struct Entry {
        const void* data;
        size_t bytes;
        fbs::Blob blob;
    };

    int add(const void* data, size_t bytes) {
        const auto [it, fresh] = by_pointer_.try_emplace({data, bytes}, -1);
        if (!fresh) return it->second;
        const uint64_t sum = checksum(data, bytes);
        auto [first, last] = by_checksum_.equal_range(sum);
        for (; first != last; ++first) {
            const Entry& known = entries_[static_cast<size_t>(first->second)];
            if (known.bytes == bytes && std::memcmp(known.data, data, bytes) == 0) return it->second = first->second;
        }
        if (entries_.size() >= static_cast<size_t>(std::numeric_limits<int>::max()))
            fail(ErrorCode::resource_exhausted, "a plan holds at most 2^31 - 1 weights");
        const int index = static_cast<int>(entries_.size());
        entries_.push_back({data, bytes, fbs::Blob(end_, bytes, sum)});
        end_ = align_up(end_ + bytes);
        by_checksum_.emplace(sum, index);
        return it->second = index;
    }
    const std::vector<Entry>& entries() const { return entries_; }
    uint64_t end() const { return end_; }

  private:
    std::vector<Entry> entries_;
    std::map<std::pair<const void*, size_t>, int> by_pointer_;
    std::unordered_multimap<uint64_t, int> by_checksum_;
    uint64_t end_ = sizeof(Header);
};

/// Fresh unknown dimensions carry numbers of this process ("?17"); in a plan they are numbered as they appear.
class UnknownNumbering {
  public:
    std::string apply(const std::string& text) {
        std::string result;
        bool quoted = false;
        for (size_t i = 0; i < text.size();) {
            if (text[i] == '\'') quoted = !quoted;
            if (quoted || text[i] != '?') {
                result += text[i++];
                continue;
            }
            size_t end = i + 1;
            while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
            const auto [it, fresh] = names_.try_emplace(text.substr(i, end - i), static_cast<int>(names_.size()));
            result += "?" + std::to_string(it->second);
            i = end;
        }
        return result;
    }

  private:
    std::map<std::string, int> names_;
};

class DescriptionWriter {
  public:
    DescriptionWriter() : builder_(64 * 1024) {}

    void finish(const PlanContents& contents) {
        const auto graph = write_graph(*contents.graph, 0);
        std::vector<Offset<fbs::Profile>> profiles;
        for (const Profile& p : contents.profiles)
            profiles.push_back(fbs::CreateProfile(builder_, dim_lists(p.min), dim_lists(p.opt), dim_lists(p.max)));
        std::vector<Offset<fbs::Section>> sections;
        for (const Section& section : contents.sections) {
            StringPairs tactics;
            for (const Tactic& t : section.tactics) tactics.emplace_back(t.region, t.implementation);
            const auto rows = pairs(tactics);
            std::vector<Offset<fbs::Binary>> binaries;
            for (const Binary& binary : section.binaries)
                binaries.push_back(fbs::CreateBinary(builder_, string(binary.key),
                                                     blobs_.add(binary.code.data(), binary.code.size())));
            const auto precision = section.precision == "fp32" ? 0 : string(section.precision);
            const auto codes = binaries.empty() ? 0 : builder_.CreateVector(binaries);
            sections.push_back(
                fbs::CreateSection(builder_, string(section.target), rows, section.threads, precision, codes));
        }
        const auto provenance = write_provenance(contents.provenance);
        std::vector<fbs::Blob> blobs;
        for (const BlobTable::Entry& entry : blobs_.entries()) blobs.push_back(entry.blob);
        const auto blob_vector = builder_.CreateVectorOfStructs(blobs);
        const auto profile_vector = builder_.CreateVector(profiles);
        const auto section_vector = builder_.CreateVector(sections);
        fbs::FinishPlanBuffer(
            builder_, fbs::CreatePlan(builder_, blob_vector, graph, profile_vector, section_vector, provenance));
    }

    std::span<const uint8_t> description() { return {builder_.GetBufferPointer(), builder_.GetSize()}; }
    const BlobTable& blobs() const { return blobs_; }
    /// The first version of the format that has all that was written.
    uint32_t version() const { return version_; }

  private:
    Offset<flatbuffers::String> string(const std::string& text) { return builder_.CreateSharedString(text); }

    Offset<Vector<Offset<flatbuffers::String>>> strings(const std::vector<std::string>& texts) {
        std::vector<Offset<flatbuffers::String>> list;
        for (const std::string& text : texts) list.push_back(string(text));
        return builder_.CreateVector(list);
    }

    Offset<Vector<Offset<fbs::Pair>>> pairs(const StringPairs& rows) {
        std::vector<Offset<fbs::Pair>> list;
        for (const auto& [key, value] : rows) {
            const auto k = string(key), v = string(value);
            list.push_back(fbs::CreatePair(builder_, k, v));
        }
        return builder_.CreateVector(list);
    }

    Offset<Vector<Offset<fbs::DimList>>> dim_lists(const std::vector<Dims>& lists) {
        std::vector<Offset<fbs::DimList>> rows;
        for (const Dims& dims : lists) rows.push_back(fbs::CreateDimList(builder_, builder_.CreateVector(dims)));
        return builder_.CreateVector(rows);
    }

    Offset<fbs::TensorData> write_tensor(const Tensor& tensor) {
        if (tensor.dtype() == DType::undefined) fail(ErrorCode::internal, "a tensor without dtype cannot be stored");
        const auto dims = builder_.CreateVector(tensor.dims());
        const auto dtype = static_cast<uint8_t>(tensor.dtype());
        if (tensor.dtype() == DType::string)
            return fbs::CreateTensorData(builder_, dtype, dims, -1, 0, strings(tensor.strings()));
        if (const PackedSource* stored = packed_source(tensor)) {
            const Packing& p = stored->packing();
            version_ = std::max(version_, p.bytes ? kPackedBytesVersion : kPackedVersion);
            const auto packing = fbs::CreatePacking(builder_, p.k, p.n, p.groups, p.taps, p.nr, p.vector, p.transposed,
                                                    p.bytes, p.segments);
            return fbs::CreateTensorData(
                builder_, dtype, dims,
                blobs_.add(stored->packed().raw(), static_cast<size_t>(stored->packed().bytes())), 0, 0, packing);
        }
        if (const SparseSource* stored = sparse_source(tensor)) {
            version_ = std::max(version_, kSparseVersion);
            return fbs::CreateTensorData(
                builder_, dtype, dims,
                blobs_.add(stored->stored().raw(), static_cast<size_t>(stored->stored().bytes())), 0, 0, 0, true);
        }
        if (static_cast<size_t>(tensor.bytes()) > kInlineLimit)
            return fbs::CreateTensorData(builder_, dtype, dims,
                                         blobs_.add(tensor.raw(), static_cast<size_t>(tensor.bytes())));
        const auto bytes =
            builder_.CreateVector(static_cast<const uint8_t*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
        return fbs::CreateTensorData(builder_, dtype, dims, -1, bytes);
    }

    Offset<fbs::Type> write_type(const Type& type) {
        Offset<fbs::Shape> shape;
        if (type.shape) {
            Dims dims;
            std::vector<std::string> symbols;
            bool symbolic = false;
            for (const Dim& dim : *type.shape) {
                dims.push_back(dim.value().value_or(0));
                symbols.push_back(dim.is_constant() ? "" : unknowns_.apply(dim.to_string()));
                symbolic = symbolic || !dim.is_constant();
            }
            const auto dim_vector = builder_.CreateVector(dims);
            if (symbolic) {
                const auto symbol_vector = strings(symbols);
                shape = fbs::CreateShape(builder_, dim_vector, symbol_vector);
            } else {
                shape = fbs::CreateShape(builder_, dim_vector);
            }
        }
        return fbs::CreateType(builder_, static_cast<uint8_t>(type.kind), static_cast<uint8_t>(type.element_kind),
                               static_cast<uint8_t>(type.dtype), shape);
    }

    Offset<fbs::Value> write_value(const Value& value) {
        const auto name = string(value.name);
        const auto type = write_type(value.type);
        return fbs::CreateValue(builder_, name, type);
    }

    Offset<fbs::Attribute> write_attribute(const std::string& name, const Attribute& attribute, int depth) {
        Offset<flatbuffers::String> s;
        Offset<Vector<int64_t>> is;
        Offset<Vector<double>> fs;
        Offset<Vector<Offset<flatbuffers::String>>> ss;
        Offset<fbs::TensorData> t;
        Offset<fbs::Graph> g;
        int64_t i = 0;
        double f = 0;
        switch (type_of(attribute)) {
            case AttrType::integer:
                i = std::get<int64_t>(attribute);
                break;
            case AttrType::real:
                f = std::get<double>(attribute);
                break;
            case AttrType::text:
                s = string(std::get<std::string>(attribute));
                break;
            case AttrType::integers:
                is = builder_.CreateVector(std::get<std::vector<int64_t>>(attribute));
                break;
            case AttrType::reals:
                fs = builder_.CreateVector(std::get<std::vector<double>>(attribute));
                break;
            case AttrType::texts:
                ss = strings(std::get<std::vector<std::string>>(attribute));
                break;
            case AttrType::tensor:
                t = write_tensor(std::get<Tensor>(attribute));
                break;
            case AttrType::graph:
                g = write_graph(*std::get<GraphPtr>(attribute), depth + 1);
                break;
        }
        return fbs::CreateAttribute(builder_, string(name), static_cast<uint8_t>(type_of(attribute)), i, f, s, is, fs,
                                    ss, t, g);
    }

    Offset<fbs::Graph> write_graph(const Graph& graph, int depth) {
        if (depth > kMaxNesting)
            fail(ErrorCode::unsupported, "subgraphs are nested deeper than " + std::to_string(kMaxNesting) + " levels");
        std::unordered_map<const Value*, int> index;
        auto number = [&](const Value* value) { index.emplace(value, static_cast<int>(index.size())); };

        std::vector<Offset<fbs::Value>> inputs;
        for (const Value* value : graph.inputs()) {
            number(value);
            inputs.push_back(write_value(*value));
        }
        std::vector<Offset<fbs::Constant>> constants;
        for (const Value* value : graph.values()) {
            if (!value->is_constant() || (value->uses.empty() && !graph.is_output(value))) continue;
            number(value);
            const auto name = string(value->name);
            const auto tensor = write_tensor(*value->constant);
            constants.push_back(fbs::CreateConstant(builder_, name, tensor));
        }
        std::vector<Offset<fbs::Node>> nodes;
        for (const auto& node : graph.nodes()) {
            std::vector<int> reads;
            for (const Value* value : node->inputs()) reads.push_back(value ? index.at(value) : -1);
            std::vector<Offset<fbs::Value>> outputs;
            for (const Value* value : node->outputs()) {
                if (value == nullptr) fail(ErrorCode::internal, "node '" + node->name + "' has a null output");
                number(value);
                outputs.push_back(write_value(*value));
            }
            std::vector<Offset<fbs::Attribute>> attributes;
            for (const auto& [name, value] : node->attributes)
                attributes.push_back(write_attribute(name, value, depth));
            const auto domain = string(std::string(node->op().domain)), op = string(std::string(node->op().name)),
                       name = string(node->name);
            const auto read_vector = builder_.CreateVector(reads);
            const auto output_vector = builder_.CreateVector(outputs);
            const auto attribute_vector = builder_.CreateVector(attributes);
            const auto origins = strings(node->origins);
            nodes.push_back(
                fbs::CreateNode(builder_, domain, op, name, read_vector, output_vector, attribute_vector, origins));
        }
        std::vector<int> outputs;
        for (const Value* value : graph.outputs()) outputs.push_back(index.at(value));
        const auto name = string(graph.name);
        const auto input_vector = builder_.CreateVector(inputs);
        const auto constant_vector = builder_.CreateVector(constants);
        const auto node_vector = builder_.CreateVector(nodes);
        const auto output_vector = builder_.CreateVector(outputs);
        const auto metadata = pairs(graph.metadata);
        return fbs::CreateGraph(builder_, name, input_vector, constant_vector, node_vector, output_vector, metadata);
    }

    Offset<fbs::Provenance> write_provenance(const Provenance& p) {
        std::vector<Offset<fbs::PassRow>> passes;
        for (const PassRow& row : p.passes)
            passes.push_back(fbs::CreatePassRow(builder_, string(row.name), row.changes));
        std::vector<Offset<fbs::LayerRow>> layers;
        for (const LayerRow& row : p.layers) {
            const auto name = string(row.name), op = string(row.op), implementation = string(row.implementation),
                       placement = string(row.placement);
            const auto inside = strings(row.layers);
            const auto refused = pairs(row.refused);
            layers.push_back(fbs::CreateLayerRow(builder_, name, inside, op, implementation, placement,
                                                 static_cast<uint8_t>(row.dtype), row.flops, row.bytes, refused));
        }
        std::vector<Offset<fbs::VerificationRow>> verification;
        for (const VerificationRow& row : p.verification) {
            const auto name = string(row.name), implementation = string(row.implementation), note = string(row.note);
            const auto inside = strings(row.layers);
            verification.push_back(fbs::CreateVerificationRow(builder_, name, inside, implementation, row.error,
                                                              row.tolerance, row.passed, note));
        }
        std::vector<Offset<fbs::PrecisionRow>> precision;
        for (const PrecisionRow& row : p.precision) {
            const auto layer = string(row.layer), op = string(row.op), before = string(row.before),
                       after = string(row.after), note = string(row.note);
            precision.push_back(fbs::CreatePrecisionRow(builder_, layer, op, before, after, row.sqnr, note));
        }
        std::vector<Offset<fbs::OutputErrorRow>> output_errors;
        for (const OutputErrorRow& row : p.output_errors)
            output_errors.push_back(fbs::CreateOutputErrorRow(builder_, string(row.name), row.sqnr, row.cosine));
        std::vector<Offset<fbs::MixRow>> mixes;
        for (const MixRow& row : p.mixes)
            mixes.push_back(fbs::CreateMixRow(builder_, string(row.name), row.layers, row.seconds, row.accuracy,
                                              row.held_out, row.met, row.on_front, row.chosen));
        const auto source = pairs(p.source), options = pairs(p.options), versions = pairs(p.versions),
                   metadata = pairs(p.metadata);
        const auto pass_vector = builder_.CreateVector(passes);
        const auto layer_vector = builder_.CreateVector(layers);
        const auto verification_vector = builder_.CreateVector(verification);
        const auto present = [&](const auto& rows) { return rows.empty() ? 0 : builder_.CreateVector(rows); };
        const auto precision_vector = present(precision);
        const auto error_vector = present(output_errors);
        const auto mix_vector = present(mixes);
        return fbs::CreateProvenance(builder_, source, options, versions, pass_vector, layer_vector,
                                     verification_vector, metadata, precision_vector, error_vector, mix_vector);
    }

    FlatBufferBuilder builder_;
    BlobTable blobs_;
    uint32_t version_ = kPlainVersion;
    UnknownNumbering unknowns_;
};

/// Calls put(bytes) with the whole file, front to back.
template <typename Put>
void emit(const PlanContents& contents, Put&& put) {
    static constexpr char kZeros[kAlignment] = {};
    DescriptionWriter writer;
    writer.finish(contents);
    const std::span<const uint8_t> description = writer.description();

    Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = writer.version();
    header.header_bytes = sizeof(Header);
    header.description_offset = writer.blobs().end();
    header.description_bytes = description.size();
    header.description_checksum = checksum(description.data(), description.size());
    header.file_bytes = header.description_offset + header.description_bytes;
    header.header_checksum = header_checksum(header);

    put(&header, sizeof header);
    for (const BlobTable::Entry& entry : writer.blobs().entries()) {
        put(entry.data, entry.bytes);
        put(kZeros, align_up(entry.bytes) - entry.bytes);
    }
    put(description.data(), description.size());
}

}  // namespace

void write(const PlanContents& contents, const std::filesystem::path& path) {
    AtomicFile file(path);
    emit(contents, [&](const void* data, size_t bytes) { file.write({static_cast<const std::byte*>(data), bytes}); });
    file.commit();
}

void check_writable(const std::filesystem::path& path) {
    const AtomicFile probe(path);  // gone without a commit: leaves nothing
}

std::vector<std::byte> write_bytes(const PlanContents& contents) {
    std::vector<std::byte> result;
    emit(contents, [&](const void* data, size_t bytes) {
        const auto* from = static_cast<const std::byte*>(data);
        result.insert(result.end(), from, from + bytes);
    });
    return result;
}

}  // namespace planish::plan
