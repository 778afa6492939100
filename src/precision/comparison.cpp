#include "precision/comparison.hpp"

#include <cmath>

namespace planish::precision {

void Comparison::add(const Tensor& wanted, const Tensor& actual) {
    const auto x = wanted.data<float>(), y = actual.data<float>();
    double xx = 0, xy = 0, yy = 0, dd = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const double a = x[i], b = y[i];
        xx += a * a;
        xy += a * b;
        yy += b * b;
        dd += (a - b) * (a - b);
    }
    signal += xx;
    noise += dd;
    cosines += xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : xx == yy;
    ++samples;
}

double Comparison::sqnr() const {
    return noise == 0 ? 300 : signal == 0 ? -300 : 10 * std::log10(signal / noise);
}

double Comparison::relative_error() const {
    return noise == 0 ? 0 : std::sqrt(noise / signal);
}

}  // namespace planish::precision
