// Error: what a caller reads from it.
#include "planish/error.hpp"

#include <gtest/gtest.h>

namespace planish {
namespace {

TEST(Error, WhatShowsMessageAndHint) {
    const Error error(ErrorCode::not_found, "no file 'a.onnx'", "check the path");
    EXPECT_STREQ(error.what(), "no file 'a.onnx' (check the path)");
    EXPECT_STREQ(Error(ErrorCode::internal, "plain").what(), "plain");
}

TEST(Error, ContextGoesInFrontAndKeepsTheRest) {
    const Error error =
        Error(ErrorCode::invalid_model, "rank 3", "make it 4").with_context("while importing node 'conv1'");
    EXPECT_EQ(error.code(), ErrorCode::invalid_model);
    EXPECT_EQ(error.message(), "while importing node 'conv1': rank 3");
    EXPECT_EQ(error.hint(), "make it 4");
}

TEST(Error, FailThrowsWithItsCode) {
    try {
        fail(ErrorCode::io_error, "cannot write");
        FAIL() << "fail() returned";
    } catch (const Error& error) {
        EXPECT_EQ(to_string(error.code()), "io_error");
    }
}

}  // namespace
}  // namespace planish
