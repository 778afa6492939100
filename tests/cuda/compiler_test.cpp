// Sources to code: keys, the cache on disk, NVRTC where it is installed.
#include "backends/cuda/compiler.hpp"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "backends/cuda/convert.hpp"
#include "backends/cuda/library.hpp"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

namespace fs = std::filesystem;

struct Folder {
    fs::path path = fs::temp_directory_path() / ("planish_kernels_" + std::to_string(::getpid()));
    Folder() { fs::remove_all(path); }
    ~Folder() { fs::remove_all(path); }
};

Binary binary(char digit, size_t bytes) {
    return {std::string(32, digit), std::vector<std::byte>(bytes, std::byte{7}), {}};
}

std::vector<KernelSpec> conversions() {
    std::vector<KernelSpec> specs;
    const DType floats[] = {DType::f32, DType::f16, DType::bf16};
    for (const DType from : floats)
        for (const DType to : floats)
            for (const Dims& dims : {Dims{1, 3, 8, 8}, Dims{1, 64, 8, 8}, Dims{64}})
                for (const Launch& launch :
                     make_convert_kernel(dims, {Layout::plain, from}, {Layout::channels_last, to}).launches)
                    specs.push_back(launch.spec);
    return specs;
}

TEST(CudaCompiler, KeysNameAllThatMattersAndNothingElse) {
    const KernelSpec spec = conversions()[0];
    const Arch hopper{9, 0, true}, ampere{8, 0, false};
    KernelSpec other = spec;
    other.shared_bytes = 1024;  // of the launch
    EXPECT_EQ(binary_key(spec, hopper), binary_key(other, hopper));
    EXPECT_NE(binary_key(spec, hopper), binary_key(spec, ampere));
    other.source += " ";
    EXPECT_NE(binary_key(spec, hopper), binary_key(other, hopper));
}

TEST(CudaCompiler, CacheFindsWhatWasAdded) {
    const Folder folder;
    const KernelCache cache(folder.path);
    EXPECT_EQ(cache.find(std::string(32, 'a')), nullptr);
    cache.add(binary('a', 100));
    const auto found = cache.find(std::string(32, 'a'));
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->code, binary('a', 100).code);
    EXPECT_EQ(cache.size().first, 1);
}

TEST(CudaCompiler, CacheDoesNotBelieveDamagedFiles) {
    const Folder folder;
    const KernelCache cache(folder.path);
    cache.add(binary('a', 100));
    const fs::path file = folder.path / "aa" / std::string(30, 'a');
    ASSERT_TRUE(fs::exists(file));
    fs::resize_file(file, 100);
    EXPECT_EQ(cache.find(std::string(32, 'a')), nullptr);
}

TEST(CudaCompiler, CacheIsBounded) {
    const Folder folder;
    const KernelCache cache(folder.path, 1000);
    for (char digit = 'a'; digit < 'h'; ++digit) cache.add(binary(digit, 200));
    cache.trim();
    EXPECT_LE(cache.size().second, 1000);
    EXPECT_GT(cache.size().first, 0);
}

TEST(CudaCompiler, WhatAPlanCarriesIsNotCompiled) {
    const KernelSpec spec = conversions()[0];
    const Arch arch{9, 0, true};
    const std::vector<std::byte> code(5, std::byte{1});
    const KernelBinaries given{{binary_key(spec, arch), code}};
    const KernelSpec* specs[] = {&spec, &spec};
    const auto found = compile_kernels(specs, arch, &given, KernelCache({}));
    EXPECT_EQ(found[0]->code, code);
    EXPECT_EQ(found[0], found[1]);
}

class CudaArchitectures : public testing::TestWithParam<const char*> {};

// Every conversion assembles, within its stated registers and without a spill.
TEST_P(CudaArchitectures, ConversionsCompile) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    const Arch arch = *Arch::parse(GetParam());
    for (const KernelSpec& spec : conversions()) {
        const auto compiled = compile_kernel(spec, arch);
        EXPECT_GT(compiled->resources.registers, 0) << spec.name;
        EXPECT_LE(compiled->resources.registers, spec.max_registers) << spec.name;
        EXPECT_EQ(compiled->resources.spilled_bytes, 0) << spec.name;
        EXPECT_EQ(std::memcmp(compiled->code.data(), "\177ELF", 4), 0) << spec.name;
    }
}

TEST_P(CudaArchitectures, AnErrorCarriesTheLog) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    KernelSpec spec;
    spec.name = "broken";
    spec.source = "this is not C++";
    try {
        compile_kernel(spec, *Arch::parse(GetParam()));
        FAIL();
    } catch (const Error& error) {
        EXPECT_THAT(error.message(), testing::HasSubstr("broken.cu"));
    }
}

INSTANTIATE_TEST_SUITE_P(Targets, CudaArchitectures, testing::Values("sm_80", "sm_89", "sm_90a"),
                         [](const auto& info) { return std::string(info.param); });

// A GPU that is newer than NVRTC gets PTX of the newest one that NVRTC knows.
TEST(CudaCompiler, UnknownArchitecturesGetPtx) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    const auto compiled = compile_kernel(conversions()[0], Arch{99, 0, false});
    const std::string text(reinterpret_cast<const char*>(compiled->code.data()), compiled->code.size());
    EXPECT_THAT(text, testing::HasSubstr(".target sm_"));
}

TEST(CudaDevices, NamesRoundTrip) {
    for (const KnownDevice& device : known_devices()) EXPECT_EQ(Arch::parse(device.arch.name()), device.arch);
    for (const char* bad : {"sm_", "sm_9x", "90a", "sm_90b", "sm_90aa"}) EXPECT_EQ(Arch::parse(bad), std::nullopt);
    EXPECT_EQ(known_device(*Arch::parse("sm_75")), nullptr);
    EXPECT_EQ(known_device(*Arch::parse("sm_87"))->arch.name(), "sm_86");
}

}  // namespace
}  // namespace planish::cuda
