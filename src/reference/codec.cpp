// Bulk conversion of elements; the common types by loops, the rare ones (f8, 4 bit, ...) through Tensor's accessors.
#include "reference/codec.hpp"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/small_float.hpp"
#include "planish/error.hpp"

namespace planish::reference {

namespace {

template <typename From, typename To>
void convert(const void* data, int64_t first, int64_t stride, int64_t count, To* out) {
    const From* in = static_cast<const From*>(data) + first;
    if (stride == 1)
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(in[i]);
    else
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(in[i * stride]);
}

double bf16_to_double(uint16_t bits) {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

double f16_to_double(uint16_t bits) {
    const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL;
    // 2^(e-25) * (1024 + f), built from its bits: normal in double for every half.
    if (exponent == 0) return sign * fraction * 0x1p-24;
    return sign * std::bit_cast<double>((static_cast<uint64_t>(exponent - 15 + 1023) << 52) |
                                        (static_cast<uint64_t>(fraction) << 42));
}

template <typename To>
void read_any(const Tensor& t, int64_t first, int64_t stride, int64_t count, To* out) {
    if (count == 0) return;
    if (stride == 0 && count > 1) {
        read_any(t, first, 1, 1, out);
        for (int64_t i = 1; i < count; ++i) out[i] = out[0];
        return;
    }
    const void* data = t.raw();
    switch (t.dtype()) {
        case DType::f32:
            return convert<float>(data, first, stride, count, out);
        case DType::f64:
            return convert<double>(data, first, stride, count, out);
        case DType::u8:
            return convert<uint8_t>(data, first, stride, count, out);
        case DType::i8:
            return convert<int8_t>(data, first, stride, count, out);
        case DType::u16:
            return convert<uint16_t>(data, first, stride, count, out);
        case DType::i16:
            return convert<int16_t>(data, first, stride, count, out);
        case DType::u32:
            return convert<uint32_t>(data, first, stride, count, out);
        case DType::i32:
            return convert<int32_t>(data, first, stride, count, out);
        case DType::u64:
            return convert<uint64_t>(data, first, stride, count, out);
        case DType::i64:
            return convert<int64_t>(data, first, stride, count, out);
        case DType::boolean: {
            const auto* in = static_cast<const uint8_t*>(data) + first;
            for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(in[i * stride] != 0);
            return;
        }
        case DType::bf16: {
            const auto* in = static_cast<const uint16_t*>(data) + first;
            for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(bf16_to_double(in[i * stride]));
            return;
        }
        case DType::f16: {
            const auto* in = static_cast<const uint16_t*>(data) + first;
            for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(f16_to_double(in[i * stride]));
            return;
        }
        case DType::string:
        case DType::c64:
        case DType::c128:
        case DType::undefined:
            fail(ErrorCode::unsupported, "no arithmetic on elements of type " + std::string(to_string(t.dtype())));
        default:
            if constexpr (std::is_same_v<To, double>)
                for (int64_t i = 0; i < count; ++i) out[i] = t.at_double(first + i * stride);
            else
                for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(t.at_int64(first + i * stride));
    }
}

/// Truncated toward zero; out of range and NaN give what the narrow conversion of the low 64 bits gives, without UB.
int64_t truncate(double value) {
    if (value >= -0x1p63 && value < 0x1p63) return static_cast<int64_t>(value);
    if (value >= 0x1p63 && value < 0x1p64) return static_cast<int64_t>(static_cast<uint64_t>(value));
    return std::numeric_limits<int64_t>::min();
}

template <typename To, typename From>
void store(const From* in, int64_t count, void* data, int64_t first) {
    To* out = static_cast<To*>(data) + first;
    for (int64_t i = 0; i < count; ++i) {
        if constexpr (std::is_same_v<From, double> && std::is_integral_v<To>)
            out[i] = static_cast<To>(truncate(in[i]));
        else
            out[i] = static_cast<To>(in[i]);
    }
}

template <typename From>
void write_any(const From* in, int64_t count, Tensor& t, int64_t first) {
    if (count == 0) return;
    void* data = t.raw();
    switch (t.dtype()) {
        case DType::f32:
            return store<float>(in, count, data, first);
        case DType::f64:
            return store<double>(in, count, data, first);
        case DType::u8:
            return store<uint8_t>(in, count, data, first);
        case DType::i8:
            return store<int8_t>(in, count, data, first);
        case DType::u16:
            return store<uint16_t>(in, count, data, first);
        case DType::i16:
            return store<int16_t>(in, count, data, first);
        case DType::u32:
            return store<uint32_t>(in, count, data, first);
        case DType::i32:
            return store<int32_t>(in, count, data, first);
        case DType::u64:
            return store<uint64_t>(in, count, data, first);
        case DType::i64:
            return store<int64_t>(in, count, data, first);
        case DType::boolean: {
            auto* out = static_cast<uint8_t*>(data) + first;
            for (int64_t i = 0; i < count; ++i) out[i] = in[i] != 0;
            return;
        }
        case DType::string:
        case DType::c64:
        case DType::c128:
        case DType::undefined:
            fail(ErrorCode::unsupported, "no arithmetic on elements of type " + std::string(to_string(t.dtype())));
        case DType::f16:
        case DType::bf16: {
            // Arithmetic overflows to infinity; it does not saturate.
            auto* out = static_cast<uint16_t*>(data) + first;
            for (int64_t i = 0; i < count; ++i)
                out[i] = static_cast<uint16_t>(encode_small_float(t.dtype(), static_cast<double>(in[i]), false));
            return;
        }
        default:
            for (int64_t i = 0; i < count; ++i) t.set_double(first + i, static_cast<double>(in[i]));
    }
}

}  // namespace

void read(const Tensor& t, int64_t first, int64_t stride, int64_t count, double* out) {
    read_any(t, first, stride, count, out);
}
void read(const Tensor& t, int64_t first, int64_t stride, int64_t count, int64_t* out) {
    read_any(t, first, stride, count, out);
}
void read(const Tensor& t, int64_t first, int64_t stride, int64_t count, uint64_t* out) {
    read_any(t, first, stride, count, reinterpret_cast<int64_t*>(out));
}

void write(const double* in, int64_t count, Tensor& t, int64_t first) {
    write_any(in, count, t, first);
}
void write(const int64_t* in, int64_t count, Tensor& t, int64_t first) {
    write_any(in, count, t, first);
}
void write(const uint64_t* in, int64_t count, Tensor& t, int64_t first) {
    write_any(in, count, t, first);
}

Arithmetic arithmetic_of(DType dtype) {
    switch (dtype) {
        case DType::u8:
        case DType::u16:
        case DType::u32:
        case DType::u64:
        case DType::u4:
        case DType::u2:
            return Arithmetic::unsigned_integer;
        case DType::i8:
        case DType::i16:
        case DType::i32:
        case DType::i64:
        case DType::i4:
        case DType::i2:
        case DType::boolean:
            return Arithmetic::signed_integer;
        default:
            return Arithmetic::real;
    }
}

}  // namespace planish::reference
