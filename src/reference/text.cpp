// Reference functions of the string ops.
#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "base/checked.hpp"
#include "planish/error.hpp"
#include "reference/elements.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {
namespace {

const std::vector<std::string>& texts(const RefContext& c, std::string_view name) {
    static const std::vector<std::string> kNone;
    const Attribute* a = c.node().find(name);
    return a ? std::get<std::vector<std::string>>(*a) : kNone;
}

std::string changed_case(std::string text, const std::string& action) {
    if (action == "NONE") return text;
    // Bytes above 0x7f belong to multi-byte UTF-8 characters and stay as they are.
    for (char& ch : text) {
        if (action == "LOWER" && ch >= 'A' && ch <= 'Z') ch = static_cast<char>(ch + 32);
        if (action == "UPPER" && ch >= 'a' && ch <= 'z') ch = static_cast<char>(ch - 32);
    }
    return text;
}

/// Parts of `text` between delimiters; an empty delimiter means runs of white space. At most `limit` cuts (-1: all).
std::vector<std::string> split_text(const std::string& text, const std::string& delimiter, int64_t limit) {
    std::vector<std::string> parts;
    if (!delimiter.empty()) {
        size_t start = 0;
        for (size_t end; limit != 0 && (end = text.find(delimiter, start)) != std::string::npos; --limit) {
            parts.push_back(text.substr(start, end - start));
            start = end + delimiter.size();
        }
        parts.push_back(text.substr(start));
        return parts;
    }
    constexpr const char* kSpaces = " \t\n\r\f\v";
    size_t start = text.find_first_not_of(kSpaces);
    while (start != std::string::npos) {
        if (limit-- == 0) {
            parts.push_back(text.substr(start, text.find_last_not_of(kSpaces) + 1 - start));
            break;
        }
        const size_t end = text.find_first_of(kSpaces, start);
        parts.push_back(text.substr(start, end - start));
        start = text.find_first_not_of(kSpaces, end);
    }
    return parts;
}

}  // namespace

void string_concat(RefContext& c) {
    const Tensor &a = c.input(0), &b = c.input(1);
    if (a.dtype() != DType::string || b.dtype() != DType::string) c.error("needs two tensors of strings");
    const auto rank = static_cast<size_t>(std::max(a.rank(), b.rank()));
    Dims dims(rank, 1);
    const auto strides_of = [&](const Tensor& x) {
        Dims strides(rank, 0);
        const Dims own = row_major_strides(x.dims());
        for (size_t k = 0; k < own.size(); ++k) {
            const size_t axis = rank - own.size() + k;
            if (x.dims()[k] == 1) continue;
            if (dims[axis] != 1 && dims[axis] != x.dims()[k]) c.error("shapes do not broadcast");
            dims[axis] = x.dims()[k];
            strides[axis] = own[k];
        }
        return strides;
    };
    const Dims sa = strides_of(a), sb = strides_of(b);
    Tensor& out = c.output(0, DType::string, dims);
    size_t o = 0;
    for_each_index(dims, [&](const Dims& index) {
        int64_t ia = 0, ib = 0;
        for (size_t k = 0; k < rank; ++k) {
            ia += index[k] * sa[k];
            ib += index[k] * sb[k];
        }
        out.strings()[o++] = a.strings()[static_cast<size_t>(ia)] + b.strings()[static_cast<size_t>(ib)];
    });
}

void string_normalizer(RefContext& c) {
    const Tensor& x = c.input(0);
    if (x.rank() < 1 || x.rank() > 2 || (x.rank() == 2 && x.dim(0) != 1)) c.error("needs [strings] or [1, strings]");
    const bool exact = c.integer("is_case_sensitive") != 0;
    const std::string& action = c.text("case_change_action");
    if (action != "NONE" && action != "LOWER" && action != "UPPER")
        c.error("unknown case_change_action '" + action + "'");
    std::set<std::string> stops;
    for (const std::string& word : texts(c, "stopwords")) stops.insert(exact ? word : changed_case(word, "LOWER"));
    std::vector<std::string> kept;
    for (const std::string& word : x.strings())
        if (!stops.contains(exact ? word : changed_case(word, "LOWER"))) kept.push_back(changed_case(word, action));
    if (kept.empty()) kept.emplace_back();  // ONNX: one empty string stands for none
    const auto count = static_cast<int64_t>(kept.size());
    c.set_output(0, Tensor::from_strings(std::move(kept), x.rank() == 2 ? Dims{1, count} : Dims{count}));
}

void string_split(RefContext& c) {
    const Tensor& x = c.input(0);
    const std::string delimiter = c.has("delimiter") ? c.text("delimiter") : "";
    const int64_t limit = c.has("maxsplit") ? c.integer("maxsplit") : -1;
    std::vector<std::vector<std::string>> parts;
    size_t longest = 0;
    for (const std::string& text : x.strings()) {
        parts.push_back(split_text(text, delimiter, limit));
        longest = std::max(longest, parts.back().size());
    }
    Dims dims = x.dims();
    dims.push_back(static_cast<int64_t>(longest));
    Tensor& y = c.output(0, DType::string, dims);
    for (size_t i = 0; i < parts.size(); ++i)
        std::copy(parts[i].begin(), parts[i].end(), y.strings().begin() + static_cast<int64_t>(i * longest));
    Tensor& z = c.output(1, DType::i64, x.dims());
    for (size_t i = 0; i < parts.size(); ++i) z.data<int64_t>()[i] = static_cast<int64_t>(parts[i].size());
}

void regex_full_match(RefContext& c) {
    const Tensor& x = c.input(0);
    const std::string& pattern = c.text("pattern");
    std::regex expression;
    try {
        expression.assign(pattern);
    } catch (const std::regex_error&) {
        c.error("cannot read the pattern '" + pattern + "'");
    }
    Tensor& out = c.output(0, DType::boolean, x.dims());
    for (size_t i = 0; i < x.strings().size(); ++i)
        out.data<uint8_t>()[i] = std::regex_match(x.strings()[i], expression) ? 1 : 0;
}

// Counts of known n-grams in each row. An n-gram with skip s is x[i], x[i+s], ..., x[i+(n-1)s].
void tf_idf_vectorizer(RefContext& c) {
    const Tensor& x = c.input(0);
    if (x.rank() < 1 || x.rank() > 2) c.error("needs [C] or [N, C], got " + to_string(x.dims()));
    const auto item = [&](int64_t i) {
        return x.dtype() == DType::string ? x.strings()[static_cast<size_t>(i)] : std::to_string(x.at_int64(i));
    };
    std::vector<std::string> pool = texts(c, "pool_strings");
    for (int64_t v : c.integers("pool_int64s")) pool.push_back(std::to_string(v));
    const std::vector<int64_t>& starts = c.integers("ngram_counts");
    const std::vector<int64_t>& places = c.integers("ngram_indexes");
    const int64_t shortest = c.integer("min_gram_length"), longest = c.integer("max_gram_length");
    if (shortest < 1 || longest < shortest || c.integer("max_skip_count") < 0)
        c.error("needs 1 <= min_gram_length <= max_gram_length and max_skip_count >= 0");
    for (const int64_t s : starts)
        if (s < 0 || s > static_cast<int64_t>(pool.size())) c.error("has ngram_counts that lie outside the pool");
    for (const int64_t p : places)
        if (p < 0) c.error("has a negative column in ngram_indexes");
    std::map<std::vector<std::string>, int64_t> grams;  // n-gram -> column
    size_t id = 0;
    for (size_t n = 1; n <= starts.size(); ++n) {
        const size_t end = n < starts.size() ? static_cast<size_t>(starts[n]) : pool.size();
        for (size_t p = static_cast<size_t>(starts[n - 1]); p + n <= end && id < places.size(); p += n, ++id)
            grams.emplace(
                std::vector(pool.begin() + static_cast<int64_t>(p), pool.begin() + static_cast<int64_t>(p + n)),
                places[id]);
    }
    const int64_t width = places.empty() ? 0 : saturating_add(*std::max_element(places.begin(), places.end()), 1);
    const int64_t rows = x.rank() == 2 ? x.dim(0) : 1, length = x.dim(-1);
    Tensor& out = c.output(0, DType::f32, x.rank() == 2 ? Dims{rows, width} : Dims{width});
    std::span<float> y = out.data<float>();
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t skip = 1; skip <= std::min(c.integer("max_skip_count"), length) + 1; ++skip)
            for (int64_t n = shortest; n <= std::min(longest, length); ++n) {
                if (n == 1 && skip > 1) continue;  // skips do not change single items
                for (int64_t i = 0; i + (n - 1) * skip < length; ++i) {
                    std::vector<std::string> gram;
                    for (int64_t k = 0; k < n; ++k) gram.push_back(item(r * length + i + k * skip));
                    if (const auto found = grams.find(gram); found != grams.end())
                        y[static_cast<size_t>(r * width + found->second)] += 1;
                }
            }
    const std::string& mode = c.text("mode");
    const std::vector<double>& weights = c.node().reals("weights");
    if (mode != "TF" && mode != "IDF" && mode != "TFIDF") c.error("unknown mode '" + mode + "'");
    // A weight belongs to an n-gram of the pool, its column is the n-gram's.
    std::vector<double> of_column(static_cast<size_t>(width), 1.0);
    for (size_t i = 0; i < weights.size() && i < places.size(); ++i)
        of_column[static_cast<size_t>(places[i])] = weights[i];
    if (mode == "TF") return;
    for (size_t i = 0; i < y.size(); ++i) {
        const double count = mode == "IDF" ? (y[i] > 0 ? 1 : 0) : y[i];
        y[i] = static_cast<float>(count * of_column[i % static_cast<size_t>(width)]);
    }
}

}  // namespace planish::reference
