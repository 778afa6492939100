// Constants stored without their zeros: nothing lost, hostile bytes refused.
#include "base/sparse_tensor.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace planish {
namespace {

/// Every `step`-th element is not zero.
Tensor every(DType dtype, int64_t size, int64_t step) {
    Tensor t(dtype, {size});
    for (int64_t i = 0; i < size; i += step) t.set_double(i, static_cast<double>(i % 100 + 1));
    return t;
}

TEST(SparseTensor, GivesBackWhatWasStored) {
    for (const DType dtype : {DType::f32, DType::f16, DType::i8, DType::i64})
        for (const int64_t size : {1, 63, 64, 65, 1000}) {
            const Tensor dense = every(dtype, size, size < 64 ? 64 : 7);
            const Tensor small = compressed(dense);
            EXPECT_TRUE(identical(small, dense)) << to_string(dtype) << " " << size;
        }
    const Tensor dense = every(DType::f32, 1000, 7);
    const Tensor small = compressed(dense);
    const SparseSource* source = sparse_source(small);
    ASSERT_NE(source, nullptr);
    EXPECT_EQ(source->nonzeros(), 143);
    EXPECT_EQ(source->stored().bytes(), 16 * 8 + 143 * 4);
    EXPECT_FALSE(source->is_made());
}

TEST(SparseTensor, MinusZeroIsAnElement) {
    Tensor dense(DType::f32, {64});
    dense.data<float>()[5] = -0.0f;
    EXPECT_EQ(sparse_source(compressed(dense))->nonzeros(), 1);
    EXPECT_TRUE(identical(compressed(dense), dense));
}

TEST(SparseTensor, StaysAsItIsWhereLittleWouldBeSaved) {
    EXPECT_EQ(sparse_source(compressed(every(DType::f32, 1000, 1))), nullptr);
    EXPECT_EQ(sparse_source(compressed(every(DType::i4, 1000, 10))), nullptr);  // two elements in a byte
}

TEST(SparseTensor, BytesThatDoNotFitAreSeen) {
    const Tensor small = compressed(every(DType::f32, 100, 7));
    const Tensor& stored = sparse_source(small)->stored();
    std::vector<std::byte> bytes(static_cast<size_t>(stored.bytes()));
    std::memcpy(bytes.data(), stored.raw(), bytes.size());
    EXPECT_TRUE(SparseSource::is_valid(DType::f32, 100, bytes));
    EXPECT_FALSE(SparseSource::is_valid(DType::f16, 100, bytes));
    EXPECT_FALSE(SparseSource::is_valid(DType::i4, 100, bytes));
    EXPECT_FALSE(SparseSource::is_valid(DType::f32, int64_t{1} << 50, bytes));
    EXPECT_FALSE(SparseSource::is_valid(DType::f32, 100, std::span(bytes).first(bytes.size() - 1)));
    EXPECT_FALSE(SparseSource::is_valid(DType::f32, 100, std::span(bytes).first(8)));
    bytes[15] = std::byte{0x80};  // element 127 of 100; the count would still be right without element 0
    bytes[0] &= std::byte{0xfe};
    EXPECT_FALSE(SparseSource::is_valid(DType::f32, 100, bytes));
}

}  // namespace
}  // namespace planish
