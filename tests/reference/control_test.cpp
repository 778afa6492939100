// Control flow, sequences and optionals in the interpreter.
#include <gtest/gtest.h>

#include "planish/error.hpp"
#include "reference/interpreter.hpp"

namespace planish {
namespace {

std::vector<RefValue> run(std::string_view text, std::vector<RefValue> inputs) {
    const auto graph = parse_graph(text);
    check(*graph);
    return reference::run_graph(*graph, std::move(inputs));
}

Tensor ints(std::vector<int64_t> values) {
    return Tensor::from(std::span<const int64_t>(values), {static_cast<int64_t>(values.size())});
}

TEST(Control, IfTakesOneBranch) {
    constexpr std::string_view kText = R"(graph "g" {
  input %c : bool[]
  input %x : int64[2]
  %y = If(%c, %x) {captures = 1, then_branch = graph "t" {
    input %x : int64[2]
    %a = Add(%x, %x)
    output %a
  }, else_branch = graph "e" {
    input %x : int64[2]
    %n = Neg(%x)
    output %n
  }}
  output %y
})";
    EXPECT_EQ(run(kText, {Tensor::scalar(true), ints({1, 2})})[0].tensor.to_int64s(), (std::vector<int64_t>{2, 4}));
    EXPECT_EQ(run(kText, {Tensor::scalar(false), ints({1, 2})})[0].tensor.to_int64s(), (std::vector<int64_t>{-1, -2}));
}

// sum += i + step; stops when the sum exceeds 10; every sum is collected.
constexpr std::string_view kLoop = R"(graph "g" {
  input %trips : int64[]
  input %start : int64[]
  input %step : int64[]
  const %go : bool[] = [1]
  %sum, %sums = Loop(%trips, %go, %start, %step) {captures = 1, body = graph "b" {
    input %i : int64[]
    input %cond : bool[]
    input %s : int64[]
    input %step : int64[]
    const %limit : int64[] = [10]
    %a = Add(%s, %i)
    %b = Add(%a, %step)
    %more = LessOrEqual(%b, %limit)
    %copy = Identity(%b)
    output %more
    output %b
    output %copy
  }}
  output %sum
  output %sums
})";

TEST(Control, LoopCarriesStopsAndCollects) {
    const auto scalar = [](int64_t v) { return RefValue(Tensor::scalar(v)); };
    auto out = run(kLoop, {scalar(3), scalar(0), scalar(1)});
    EXPECT_EQ(out[0].tensor.at_int64(0), 6);
    EXPECT_EQ(out[1].tensor.to_int64s(), (std::vector<int64_t>{1, 3, 6}));
    out = run(kLoop, {scalar(100), scalar(0), scalar(1)});
    EXPECT_EQ(out[1].tensor.to_int64s(), (std::vector<int64_t>{1, 3, 6, 10, 15}));
    out = run(kLoop, {scalar(0), scalar(7), scalar(1)});
    EXPECT_EQ(out[0].tensor.at_int64(0), 7);
    EXPECT_EQ(out[1].tensor.dims(), Dims{0});
}

TEST(Control, ScanGoesAlongAnAxisInBothDirections) {
    constexpr std::string_view kText = R"(graph "g" {
  input %init : int64[2]
  input %x : int64[3, 2]
  %last, %sums = Scan(%init, %x) {num_scan_inputs = 1, scan_input_directions = [1], body = graph "b" {
    input %s : int64[2]
    input %row : int64[2]
    %t = Add(%s, %row)
    %copy = Identity(%t)
    output %t
    output %copy
  }}
  output %last
  output %sums
})";
    const auto out = run(kText, {ints({0, 0}), RefValue(ints({1, 2, 3, 4, 5, 6}).reshaped({3, 2}))});
    EXPECT_EQ(out[0].tensor.to_int64s(), (std::vector<int64_t>{9, 12}));
    EXPECT_EQ(out[1].tensor.to_int64s(), (std::vector<int64_t>{5, 6, 8, 10, 9, 12}));
}

TEST(Control, Sequences) {
    constexpr std::string_view kText = R"(graph "g" {
  input %a : int64[2]
  input %b : int64[3]
  const %one : int64[] = [1]
  const %last : int64[] = [-1]
  %s = SequenceConstruct(%a, %b)
  %t = SequenceInsert(%s, %a, %one)
  %u = SequenceErase(%t, %last)
  %n = SequenceLength(%u)
  %m = SequenceMap(%u) {body = graph "b" {
    input %e : int64[*]
    %d = Add(%e, %e)
    output %d
  }}
  %y = SequenceAt(%m, %last)
  %z = ConcatFromSequence(%t) {axis = 0}
  output %n
  output %y
  output %z
})";
    const auto out = run(kText, {ints({1, 2}), ints({3, 4, 5})});
    EXPECT_EQ(out[0].tensor.at_int64(0), 2);
    EXPECT_EQ(out[1].tensor.to_int64s(), (std::vector<int64_t>{2, 4}));
    EXPECT_EQ(out[2].tensor.to_int64s(), (std::vector<int64_t>{1, 2, 1, 2, 3, 4, 5}));
}

TEST(Control, OptionalsSayWhetherTheyHold) {
    const auto out = run(R"(graph "g" {
  input %a : int64[2]
  %o = Optional(%a)
  %e = Optional()
  %h = OptionalHasElement(%o)
  %n = OptionalHasElement(%e)
  %y = OptionalGetElement(%o)
  output %h
  output %n
  output %y
})",
                         {ints({1, 2})});
    EXPECT_EQ(out[0].tensor.at_int64(0), 1);
    EXPECT_EQ(out[1].tensor.at_int64(0), 0);
    EXPECT_EQ(out[2].tensor.to_int64s(), (std::vector<int64_t>{1, 2}));
}

TEST(Control, APositionOutOfRangeIsAnErrorThatNamesIt) {
    try {
        run(R"(graph "g" {
  input %a : int64[2]
  const %p : int64[] = [3]
  %s = SequenceConstruct(%a)
  %y = SequenceAt(%s, %p) name "pick"
  output %y
})",
            {ints({1, 2})});
        FAIL();
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("pick"), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find("3"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace planish
