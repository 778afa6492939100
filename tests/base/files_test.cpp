// Mapped and atomically written files: contents, replacement, and an Error for each way to fail.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/atomic_file.hpp"
#include "base/mapped_file.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "planish_files_XXXXXX").string();
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override { fs::remove_all(folder_); }

    static std::span<const std::byte> bytes_of(std::string_view text) {
        return std::as_bytes(std::span(text.data(), text.size()));
    }
    static std::string text_of(const MappedFile& file) {
        return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
    }
    static ErrorCode code_of(const std::function<void()>& call, const std::string& named) {
        try {
            call();
        } catch (const Error& error) {
            EXPECT_THAT(error.message(), testing::HasSubstr(named));
            return error.code();
        }
        ADD_FAILURE() << "no error";
        return ErrorCode::internal;
    }
    size_t files_in_folder() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }

    fs::path folder_;
};

TEST_F(Files, WhatIsWrittenIsMapped) {
    write_file_atomically(folder_ / "a", bytes_of("first"));
    const MappedFile before(folder_ / "a");
    write_file_atomically(folder_ / "a", bytes_of("second, longer"));
    EXPECT_EQ(text_of(before), "first");  // the replaced file lives on in its mapping
    MappedFile after(folder_ / "a");
    after.will_need();
    EXPECT_EQ(text_of(after), "second, longer");
    MappedFile moved(std::move(after));
    EXPECT_TRUE(after.bytes().empty());
    EXPECT_EQ(text_of(moved), "second, longer");
    EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Files, EmptyFile) {
    write_file_atomically(folder_ / "empty", {});
    EXPECT_TRUE(MappedFile(folder_ / "empty").bytes().empty());
}

TEST_F(Files, MappingErrorsNameThePath) {
    EXPECT_EQ(code_of([&] { MappedFile(folder_ / "missing.plan"); }, "missing.plan"), ErrorCode::not_found);
    EXPECT_EQ(code_of([&] { MappedFile{folder_}; }, folder_.string()), ErrorCode::invalid_argument);
    ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
    EXPECT_EQ(code_of([&] { MappedFile(folder_ / "pipe"); }, "pipe"), ErrorCode::invalid_argument);
    if (geteuid() != 0) {
        write_file_atomically(folder_ / "secret", bytes_of("x"));
        fs::permissions(folder_ / "secret", fs::perms::none);
        EXPECT_EQ(code_of([&] { MappedFile(folder_ / "secret"); }, "secret"), ErrorCode::io_error);
    }
}

TEST_F(Files, WritingErrorsNameTheTargetAndLeaveNothing) {
    EXPECT_EQ(code_of([&] { AtomicFile(folder_ / "no" / "such" / "x.plan"); }, "x.plan"), ErrorCode::io_error);
    EXPECT_EQ(code_of([&] { AtomicFile{folder_}; }, folder_.string()), ErrorCode::io_error);
    EXPECT_EQ(code_of([&] { AtomicFile("/proc/planish.plan"); }, "planish.plan"), ErrorCode::io_error);
    EXPECT_EQ(files_in_folder(), 0u);
}

TEST_F(Files, WithoutCommitTheTargetStaysAsItWas) {
    write_file_atomically(folder_ / "a", bytes_of("kept"));
    {
        AtomicFile file(folder_ / "a");
        file.write(bytes_of("half"));
        EXPECT_EQ(file.size(), 4u);
    }
    EXPECT_EQ(text_of(MappedFile(folder_ / "a")), "kept");
    EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Files, KeepsPermissionsAndLinks) {
    write_file_atomically(folder_ / "a", bytes_of("1"));
    fs::permissions(folder_ / "a", fs::perms(0640));
    fs::create_symlink(folder_ / "a", folder_ / "link");
    write_file_atomically(folder_ / "link", bytes_of("2"));
    EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
    EXPECT_EQ(text_of(MappedFile(folder_ / "a")), "2");
    EXPECT_EQ(fs::status(folder_ / "a").permissions(), fs::perms(0640));
}

}  // namespace
}  // namespace planish
