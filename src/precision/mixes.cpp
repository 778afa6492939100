#include "precision/mixes.hpp"

#include <cmath>
#include <optional>

namespace planish::precision {
namespace {

using Parts = std::vector<std::vector<Choice>>;

class Walk {
  public:
    Walk(const Parts& parts, const std::vector<Crossing>& crossings)
        : parts_(parts), crossings_(parts.size()), mix_(parts.size()) {
        for (const Crossing& crossing : crossings) {
            crossings_[crossing.maker].push_back(crossing);
            crossings_[crossing.reader].push_back(crossing);
        }
    }

    std::vector<Mix> run() {
        find_fastest();
        std::vector<Mix> path = {mix_};
        while (const auto change = least_price()) {
            mix_[change->part] = change->choice;
            path.push_back(mix_);
        }
        return path;
    }

  private:
    struct Change {
        size_t part, choice;
    };

    /// What the network takes more when `part` changes to `choice`.
    double extra(size_t part, size_t choice) const {
        const size_t now = mix_[part];
        double sum = parts_[part][choice].seconds - parts_[part][now].seconds;
        for (const Crossing& crossing : crossings_[part]) {
            const size_t other = crossing.maker == part ? crossing.reader : crossing.maker;
            const std::string& precision = parts_[other][mix_[other]].precision;
            sum += crossing.seconds *
                   (int(parts_[part][choice].precision != precision) - int(parts_[part][now].precision != precision));
        }
        return sum;
    }

    /// Each part's own fastest choice, then changed one by one as long as that makes the whole faster.
    void find_fastest() {
        for (size_t p = 0; p < parts_.size(); ++p)
            for (size_t c = 1; c < parts_[p].size(); ++c)
                if (parts_[p][c].seconds < parts_[p][mix_[p]].seconds) mix_[p] = c;
        for (bool changed = true; changed;) {
            changed = false;
            for (size_t p = 0; p < parts_.size(); ++p)
                for (size_t c = 0; c < parts_[p].size(); ++c)
                    // Rounding must not make two equal mixes alternate.
                    if (extra(p, c) < -1e-12) {
                        mix_[p] = c;
                        changed = true;
                    }
        }
    }

    std::optional<Change> least_price() const {
        std::optional<Change> best;
        double least = INFINITY;
        for (size_t p = 0; p < parts_.size(); ++p)
            for (size_t c = 0; c < parts_[p].size(); ++c) {
                const double saved = parts_[p][mix_[p]].noise - parts_[p][c].noise;
                if (!(saved > 0)) continue;
                const double price = extra(p, c) / saved;
                if (price < least) {
                    least = price;
                    best = Change{p, c};
                }
            }
        return best;
    }

    const Parts& parts_;
    std::vector<std::vector<Crossing>> crossings_;  // by part
    Mix mix_;
};

}  // namespace

double seconds_of(const Mix& mix, const Parts& parts, const std::vector<Crossing>& crossings) {
    double sum = 0;
    for (size_t p = 0; p < parts.size(); ++p) sum += parts[p][mix[p]].seconds;
    for (const Crossing& crossing : crossings)
        if (parts[crossing.maker][mix[crossing.maker]].precision !=
            parts[crossing.reader][mix[crossing.reader]].precision)
            sum += crossing.seconds;
    return sum;
}

double noise_of(const Mix& mix, const Parts& parts) {
    double sum = 0;
    for (size_t p = 0; p < parts.size(); ++p) sum += parts[p][mix[p]].noise;
    return sum;
}

std::vector<Mix> search_path(const Parts& parts, const std::vector<Crossing>& crossings) {
    return Walk(parts, crossings).run();
}

}  // namespace planish::precision
