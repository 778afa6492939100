// The command line without a model: usage, exit codes, messages; .npy and .npz files.
#include "cli/cli.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

#include "cli/common.hpp"
#include "cli/npy.hpp"
#include "plan/plan_io.hpp"
#include "tuner/timing_cache.hpp"

namespace planish::cli {
namespace {

using testing::HasSubstr;

struct Result {
    int code;
    std::string out, err;
};

Result planish_run(std::vector<std::string> words) {
    words.insert(words.begin(), "planish");
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = run(static_cast<int>(argv.size()), argv.data());
    std::fflush(stdout);
    Result result{code, testing::internal::GetCapturedStdout(), testing::internal::GetCapturedStderr()};
    return result;
}

class Cli : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = std::filesystem::path(testing::TempDir()) /
                  ("planish_cli_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        std::filesystem::create_directories(folder_);
        plan::PlanContents contents;
        contents.graph = parse_graph(R"(graph "g" {
            input %x : float32[N, 3]
            const %w : float32[3, 2] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
            %y = MatMul(%x, %w) name "fc"
            output %y
        })");
        contents.profiles = {{{{1, 3}}, {{2, 3}}, {{8, 3}}}};
        plan::write(contents, folder_ / "g.plan");
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    std::string path(const std::string& name) const { return (folder_ / name).string(); }

    std::filesystem::path folder_;
};

TEST_F(Cli, UsageErrorsExitWith2) {
    EXPECT_EQ(planish_run({}).code, 2);
    EXPECT_EQ(planish_run({"frobnicate"}).code, 2);
    EXPECT_EQ(planish_run({"run"}).code, 2);
    EXPECT_EQ(planish_run({"bench", path("g.plan"), "--threads", "zero"}).code, 2);
    EXPECT_EQ(planish_run({"build", "--help"}).code, 0);
    EXPECT_THAT(planish_run({"build", "--help"}).out, HasSubstr("Examples:"));
    EXPECT_THAT(planish_run({"--version"}).out, HasSubstr("planish "));
}

TEST_F(Cli, FailuresExitWith1AndSayWhatToDo) {
    const Result missing = planish_run({"run", path("no.plan")});
    EXPECT_EQ(missing.code, 1);
    EXPECT_THAT(missing.err, HasSubstr("no.plan"));
    EXPECT_EQ(missing.out, "");
    std::ofstream(path("text.plan")) << "hello\n";
    const Result text = planish_run({"inspect", path("text.plan"), "--json"});
    EXPECT_EQ(text.code, 1);
    EXPECT_THAT(text.err, HasSubstr("text"));
    EXPECT_EQ(Json::parse(text.out)["error"]["code"], "invalid_plan");
    EXPECT_EQ(planish_run({"build", path("no.onnx")}).code, 1);
    EXPECT_FALSE(std::filesystem::exists(path("no.plan")));
}

TEST_F(Cli, RunsFromFilesToFiles) {
    const std::vector<float> x = {1, 0, 0, 0, 0, 1};
    write_npy(path("x.npy"), Tensor::from<float>(x, {2, 3}));
    const Result result = planish_run({"run", path("g.plan"), "--input", "x=" + path("x.npy"), "--output",
                                       "y=" + path("y.npy"), "--output", path("all.npz"), "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(Json::parse(result.out)["outputs"]["y"]["max"], 6.0);
    EXPECT_THAT(read_npy(path("y.npy")).to_doubles(), testing::ElementsAre(1, 2, 5, 6));
    EXPECT_THAT(read_npz(path("all.npz")).at("y").to_doubles(), testing::ElementsAre(1, 2, 5, 6));

    EXPECT_EQ(planish_run({"run", path("g.plan"), "--random"}).code, 0);
    EXPECT_THAT(planish_run({"run", path("g.plan")}).err, HasSubstr("'x'"));
    EXPECT_THAT(planish_run({"run", path("g.plan"), "--input", "z=" + path("x.npy")}).err, HasSubstr("'z'"));
    const Result output = planish_run({"run", path("g.plan"), "--random", "--output", "z=" + path("z.npy")});
    EXPECT_EQ(output.code, 1);
    EXPECT_THAT(output.err, HasSubstr("'y'"));
    EXPECT_EQ(planish_run({"run", path("g.plan"), "--random", "--output", "y=" + path("none/y.npy")}).code, 1);
}

TEST_F(Cli, BenchInspectCompareGiveJson) {
    const Result bench = planish_run(
        {"bench", path("g.plan"), "--runs", "5", "--threads", "1", "--shape", "x=4x3", "--profile", "--json"});
    ASSERT_EQ(bench.code, 0) << bench.err;
    const Json figures = Json::parse(bench.out);
    EXPECT_EQ(figures["runs"], 5);
    EXPECT_EQ(figures["shapes"]["x"], Json({4, 3}));
    EXPECT_LE(figures["min_ms"].get<double>(), figures["median_ms"].get<double>());
    EXPECT_EQ(figures["contexts"], 1);
    EXPECT_GT(figures["runs_per_second"].get<double>(), 0);
    EXPECT_GT(figures["profile"].size(), 0u);

    const Result inspect = planish_run({"inspect", path("g.plan"), "--json", "--graph"});
    ASSERT_EQ(inspect.code, 0) << inspect.err;
    EXPECT_EQ(Json::parse(inspect.out)["inputs"][0]["shape"], Json({"N", "3"}));
    EXPECT_EQ(planish_run({"inspect", path("g.plan"), "--explain", "--verification"}).code, 0);

    const Result compare = planish_run({"compare", path("g.plan"), "--json"});
    ASSERT_EQ(compare.code, 0) << compare.err << compare.out;
    const Json rows = Json::parse(compare.out);
    EXPECT_EQ(rows["failed"], 0);
    ASSERT_GT(rows["regions"].size(), 0u);
}

TEST_F(Cli, BenchOfSeveralContextsCountsAllRuns) {
    const Result bench =
        planish_run({"bench", path("g.plan"), "--runs", "7", "--threads", "1", "--contexts", "3", "--json"});
    ASSERT_EQ(bench.code, 0) << bench.err;
    EXPECT_EQ(Json::parse(bench.out)["runs"], 21);
    EXPECT_EQ(Json::parse(bench.out)["contexts"], 3);
    EXPECT_THAT(planish_run({"bench", path("g.plan"), "--runs", "2", "--contexts", "2"}).out, HasSubstr("2 contexts"));
    EXPECT_EQ(planish_run({"bench", path("g.plan"), "--contexts", "0"}).code, 2);
}

TEST_F(Cli, ProfileHoldsRegionsAgainstTheRoofline) {
    const std::vector<std::string> bench = {"bench", path("g.plan"), "--runs", "5", "--profile", "--sort", "excess"};
    std::vector<std::string> json = bench;
    json.insert(json.end(), {"--json", "--trace", path("trace.json")});
    const Result result = planish_run(json);
    ASSERT_EQ(result.code, 0) << result.err;
    const Json figures = Json::parse(result.out);
    const double flops = figures["peak"]["gflops"].get<double>() * 1e9,
                 bytes = figures["peak"]["gbs"].get<double>() * 1e9;
    EXPECT_GT(flops, 0);
    EXPECT_GT(bytes, 0);
    double sum = 0, last = std::numeric_limits<double>::infinity();
    for (const Json& row : figures["profile"]) {
        const double ms = row["ms"].get<double>(), bound = row["bound_ms"].get<double>();
        EXPECT_NEAR(bound, 1e3 * std::max(row["flops"].get<double>() / flops, row["bytes"].get<double>() / bytes),
                    1e-9 * bound);
        EXPECT_NEAR(row["roofline"].get<double>() * ms, bound, 1e-9 * bound);
        EXPECT_LE(ms - bound, last);
        last = ms - bound;
        sum += ms;
    }
    EXPECT_NEAR(figures["profile_total"]["ms"].get<double>(), sum, 1e-9 * sum);

    const Result table = planish_run(bench);
    EXPECT_THAT(table.out, HasSubstr("\ntotal "));
    EXPECT_THAT(table.out, HasSubstr("GB/s, measured with"));
    EXPECT_EQ(planish_run({"bench", path("g.plan"), "--profile", "--sort", "beauty"}).code, 2);
}

// Perfetto wants complete events with a track, a start and a duration in microseconds; the user's layers are arguments.
TEST_F(Cli, TraceNamesTheUsersLayers) {
    const Result result = planish_run({"bench", path("g.plan"), "--runs", "2", "--trace", path("trace.json")});
    ASSERT_EQ(result.code, 0) << result.err;
    std::ifstream file(path("trace.json"));
    const Json trace = Json::parse(file);
    int regions = 0;
    double end = 0;
    for (const Json& event : trace["traceEvents"]) {
        if (event["ph"] != "X" || !event["args"].contains("layers")) continue;
        ++regions;
        EXPECT_EQ(event["name"], "fc");
        EXPECT_EQ(event["args"]["layers"], Json({"fc"}));
        EXPECT_GE(event["ts"].get<double>(), end);
        EXPECT_GE(event["dur"].get<double>(), 0);
        end = event["ts"].get<double>() + event["dur"].get<double>();
    }
    EXPECT_EQ(regions, 1);
    EXPECT_EQ(planish_run({"bench", path("g.plan"), "--runs", "2", "--trace", path("none/trace.json")}).code, 1);
}

TEST_F(Cli, CachesAreShownMergedAndPruned) {
    auto write = [&](const std::string& name, const std::string& key, const std::string& region,
                     const std::string& made_by) {
        tuner::TimingCache cache;
        cache.insert(key, {"a machine", made_by, region, 3, {{"conv_jit", 2000}, {"conv_winograd", 1000}}});
        cache.add_to(path(name));
    };
    write("a.json", "1", "Conv float32[1, 8]", std::string(version()));
    write("b.json", "2", "MatMul float32[1, 8]", "0.0.1");

    const Result merged = planish_run({"cache", "merge", path("all.json"), path("a.json"), path("b.json"), "--json"});
    ASSERT_EQ(merged.code, 0) << merged.err;
    EXPECT_EQ(Json::parse(merged.out)["before"], 0);
    EXPECT_EQ(Json::parse(merged.out)["after"], 2);

    const Result shown = planish_run({"cache", "show", path("all.json"), "--match", "Conv", "--json"});
    ASSERT_EQ(shown.code, 0) << shown.err;
    const Json rows = Json::parse(shown.out)["entries"];
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_EQ(rows[0]["nanoseconds"]["conv_winograd"], 1000);
    EXPECT_THAT(planish_run({"cache", "show", path("all.json")}).out, HasSubstr("2 entries"));

    EXPECT_EQ(planish_run({"cache", "prune", path("all.json")}).code, 1);
    EXPECT_EQ(planish_run({"cache", "prune", path("all.json"), "--other-versions"}).code, 0);
    EXPECT_EQ(tuner::TimingCache::read(path("all.json")).entries().size(), 1u);
    EXPECT_EQ(planish_run({"cache", "prune", path("all.json"), "--match", "Conv"}).code, 0);
    EXPECT_TRUE(tuner::TimingCache::read(path("all.json")).entries().empty());

    EXPECT_EQ(planish_run({"cache"}).code, 2);
    EXPECT_EQ(planish_run({"cache", "show", path("none.json")}).code, 1);
    EXPECT_FALSE(std::filesystem::exists(path("none.json")));
    std::ofstream(path("text.json")) << "hello\n";
    EXPECT_THAT(planish_run({"cache", "show", path("text.json")}).err, HasSubstr("not a timing cache"));
    EXPECT_THAT(planish_run({"cache", "--help"}).out, HasSubstr("Examples:"));
}

TEST_F(Cli, ShapesAreParsed) {
    const auto shapes = parse_shapes({"a=1x3x8x8", "b=1x8:1x128:8x512", "c=scalar"});
    EXPECT_EQ(shapes.at("a").max, (Dims{1, 3, 8, 8}));
    EXPECT_EQ(shapes.at("b").opt, (Dims{1, 128}));
    EXPECT_EQ(shapes.at("b").max, (Dims{8, 512}));
    EXPECT_EQ(shapes.at("c").opt, Dims{});
    for (const char* bad : {"a", "a=", "a=1xx2", "a=-1", "a=1:2", "=3", "a=1x2y"})
        EXPECT_THROW(parse_shapes({bad}), Error) << bad;
}

TEST_F(Cli, NpyRoundTripsAndRefusesDamage) {
    const std::vector<int64_t> values = {1, -2, 3, 4, 5, 6};
    const Tensor tensor = Tensor::from<int64_t>(values, {1, 2, 3});
    write_npy(path("a.npy"), tensor);
    EXPECT_TRUE(identical(read_npy(path("a.npy")), tensor));
    write_npz(path("a.npz"), {{"p", tensor}, {"q/r", Tensor::scalar(2.5f)}});
    const auto archive = read_npz(path("a.npz"));
    EXPECT_TRUE(identical(archive.at("p"), tensor));
    EXPECT_TRUE(identical(archive.at("q/r"), Tensor::scalar(2.5f)));

    std::string content;
    {
        std::ifstream file(path("a.npz"), std::ios::binary);
        content.assign(std::istreambuf_iterator<char>(file), {});
    }
    for (size_t length = 0; length < content.size(); length += 3) {
        std::ofstream(path("cut.npz"), std::ios::binary) << content.substr(0, length);
        EXPECT_THROW(read_npz(path("cut.npz")), Error) << length;
    }
    // Column-major, as numpy.save writes a transposed matrix.
    std::string fortran = "\x93NUMPY";
    fortran += std::string("\x01\x00\x46\x00", 4);
    std::string header = "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }";
    header.resize(69, ' ');
    fortran += header + "\n";
    for (int32_t v : {1, 4, 2, 5, 3, 6}) fortran.append(reinterpret_cast<const char*>(&v), 4);
    std::ofstream(path("f.npy"), std::ios::binary) << fortran;
    EXPECT_THAT(read_npy(path("f.npy")).to_int64s(), testing::ElementsAre(1, 2, 3, 4, 5, 6));
}

}  // namespace
}  // namespace planish::cli
