// Conv, Gemm and MatMul with constant weights as matrix products: what quantisation changes of a network.
#pragma once

#include <optional>

#include "precision/least_squares.hpp"
#include "precision/rehearsal.hpp"

namespace planish::precision {

/// y[n] = sum_k w[n][k] x[k] (+ b[n]) at every place; of a convolution in groups, one such product for each.
class Layer {
  public:
    /// Nullopt: `node` is none, its weights are not constant, or it is scaled or transposed in ways that kernels of
    /// integers do not take.
    static std::optional<Layer> read(Node& node);

    Node& node() const { return *node_; }
    Value* input() const { return node_->input(0); }
    Value* weight() const { return node_->input(1); }
    int64_t channels() const { return groups_ * n_; }  ///< of the output
    int64_t groups() const { return groups_; }
    int64_t inputs() const { return groups_ * input_channels_; }  ///< channels of the input
    int64_t terms() const { return k_; }                          ///< of one sum
    int64_t weight_axis() const { return axis_; }  ///< of the weights, along which the output's channels lie
    int64_t channel_axis() const { return node_->is("Conv") ? 1 : -1; }  ///< of input and output
    bool is_depthwise() const { return n_ == 1 && groups_ > 1; }

    /// [terms, channels of one group]: row k holds what x[k] is multiplied with.
    Matrix weights(int64_t group) const;
    /// Puts them back as `dtype`: float32, int8 or e4m3.
    void put_weights(Tensor& tensor, int64_t group, const Matrix& transposed) const;

    /// Where products are computed in a tensor of these dims: all places of a sample.
    int64_t places(const Dims& input) const;
    /// One row for each chosen place: the x of `group` there; padding reads 0.
    void gather(const Tensor& input, std::span<const int64_t> places, int64_t group, Matrix& rows, int64_t first) const;

    /// The vector that is added to the result, when it is constant and this layer's alone: Conv's and Gemm's bias, the
    /// Add behind a MatMul.
    struct Bias {
        Node* node = nullptr;
        int input = -1;  ///< may be past the end: no bias yet
    };
    std::optional<Bias> bias(const Graph& graph) const;

  private:
    Node* node_ = nullptr;
    int64_t groups_ = 1, n_ = 0, k_ = 0, axis_ = 0, input_channels_ = 0;
    bool rows_are_terms_ = false;  // the weight tensor is [k, n]
    std::vector<int64_t> kernel_, strides_, dilations_, pads_;
};

}  // namespace planish::precision
