// Accuracy budgets: what they say, and how plans are measured against them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planish/planish.hpp"

namespace planish {

struct Budget {
    std::string metric;    // "top1", "cosine", "sqnr", "error"; "metric": the user's own
    bool at_least = true;  // or at most
    double bound = 0;      // of the metric, or with `against_float` of its difference to float32's
    bool against_float = false;

    bool is_users_own() const { return metric == "metric"; }
    bool better(double a, double b) const { return at_least ? a > b : a < b; }
    /// `floats`: the metric of the float32 network.
    bool met(double value, double floats) const {
        constexpr double kRounding = 1e-12;  // of the metric's own sums
        return !better(bound + (against_float ? floats : 0), value + (at_least ? kRounding : -kRounding));
    }
};

/// Errors: invalid_argument with the grammar.
Budget parse_budget(const std::string& text);

/// The metric of a budget, for plans of one model.
class Accuracy {
  public:
    /// `calibration`, `held_out`: samples for the metrics that compare with float32.
    Accuracy(const AccuracyOptions& options, Budget budget, std::vector<TensorMap> calibration,
             std::vector<TensorMap> held_out, LoadOptions load);

    /// Measures the float32 network, with which all others are compared.
    void set_floats(const Plan& plan);
    double of_floats() const { return of_floats_; }
    double on_calibration(const Plan& plan) const;
    /// NAN: the user's own metric has its own data.
    double on_held_out(const Plan& plan) const;
    const Budget& budget() const { return budget_; }
    bool met(double value) const { return budget_.met(value, of_floats_); }

  private:
    struct Data {
        std::vector<TensorMap> samples, expected;
    };
    std::vector<TensorMap> outputs(const Plan& plan, const std::vector<TensorMap>& samples) const;
    double compare(const Plan& plan, const Data& data) const;
    double ask_user(const Plan& plan) const;

    const AccuracyOptions& options_;
    Budget budget_;
    Data calibration_, held_out_;
    LoadOptions load_;
    double of_floats_ = 0;
};

}  // namespace planish
