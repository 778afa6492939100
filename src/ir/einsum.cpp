// Parser of Einsum's equation.
#include "ir/einsum.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <string>

#include "planish/error.hpp"

namespace planish {

namespace {

constexpr int kEllipsis = 0;  // stands for the ellipsis until its rank is known

[[noreturn]] void bad(std::string_view equation, const std::string& what) {
    fail(ErrorCode::invalid_model, "Einsum equation '" + std::string(equation) + "' " + what);
}

std::vector<int> parse_term(std::string_view equation, std::string_view term) {
    std::vector<int> labels;
    while (!term.empty()) {
        if (term.starts_with("...")) {
            if (std::find(labels.begin(), labels.end(), kEllipsis) != labels.end())
                bad(equation, "has two ellipses in one term");
            labels.push_back(kEllipsis);
            term.remove_prefix(3);
        } else {
            const auto c = static_cast<unsigned char>(term.front());
            if (!std::isalpha(c)) bad(equation, std::string("has the character '") + term.front() + "'");
            labels.push_back(c);
            term.remove_prefix(1);
        }
    }
    return labels;
}

/// Replaces the ellipsis by `rank` labels -rank ... -1.
std::vector<int> expand(const std::vector<int>& labels, size_t rank) {
    std::vector<int> out;
    for (int label : labels) {
        if (label != kEllipsis)
            out.push_back(label);
        else
            for (size_t i = rank; i > 0; --i) out.push_back(-static_cast<int>(i));
    }
    return out;
}

}  // namespace

EinsumEquation parse_einsum(std::string_view given, const std::vector<size_t>& ranks) {
    std::string equation(given);
    std::erase(equation, ' ');
    std::string_view text = equation;
    const size_t arrow = text.find("->");
    std::string_view left = text.substr(0, arrow);
    std::vector<std::vector<int>> terms;
    for (size_t end; (end = left.find(',')) != std::string_view::npos; left.remove_prefix(end + 1))
        terms.push_back(parse_term(given, left.substr(0, end)));
    terms.push_back(parse_term(given, left));
    if (terms.size() != ranks.size())
        bad(given, "has " + std::to_string(terms.size()) + " terms for " + std::to_string(ranks.size()) + " operands");

    EinsumEquation result;
    size_t ellipsis_rank = 0;
    std::map<int, int> occurrences;
    for (size_t k = 0; k < terms.size(); ++k) {
        const bool has_ellipsis = std::find(terms[k].begin(), terms[k].end(), kEllipsis) != terms[k].end();
        const size_t letters = terms[k].size() - (has_ellipsis ? 1 : 0);
        if (letters > ranks[k] || (!has_ellipsis && letters != ranks[k]))
            bad(given, "has " + std::to_string(letters) + " labels for operand " + std::to_string(k) + " of rank " +
                           std::to_string(ranks[k]));
        if (has_ellipsis) ellipsis_rank = std::max(ellipsis_rank, ranks[k] - letters);
        result.inputs.push_back(expand(terms[k], ranks[k] - letters));
        for (int label : terms[k])
            if (label != kEllipsis) ++occurrences[label];
    }
    if (arrow != std::string_view::npos) {
        const std::vector<int> labels = parse_term(given, text.substr(arrow + 2));
        for (int label : labels) {
            if (label != kEllipsis && !occurrences.contains(label))
                bad(given, std::string("has the output label '") + static_cast<char>(label) + "' in no operand");
            if (std::count(labels.begin(), labels.end(), label) > 1) bad(given, "repeats a label in its output");
        }
        result.output = expand(labels, ellipsis_rank);
    } else {  // the ellipsis, then the labels that occur once, in order of their code
        for (size_t i = ellipsis_rank; i > 0; --i) result.output.push_back(-static_cast<int>(i));
        for (const auto& [label, count] : occurrences)
            if (count == 1) result.output.push_back(label);
    }
    return result;
}

}  // namespace planish
