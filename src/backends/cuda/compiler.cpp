// NVRTC and the cache of what it made.
#include "backends/cuda/compiler.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <future>
#include <mutex>
#include <unordered_map>

#include "backends/cuda/embedded.hpp"
#include "backends/cuda/library.hpp"
#include "base/atomic_file.hpp"
#include "base/hash.hpp"
#include "base/mapped_file.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

namespace fs = std::filesystem;

const EmbeddedFile* find_embedded(std::string_view name) {
    for (const EmbeddedFile& file : embedded_files())
        if (file.name == name) return &file;
    return nullptr;
}

/// The embedded files that `source` includes, directly or not, in the order in which they are met.
std::vector<const EmbeddedFile*> includes_of(std::string_view source) {
    constexpr std::string_view kInclude = "#include \"planish/";
    std::vector<const EmbeddedFile*> found;
    std::vector<std::string_view> work{source};
    while (!work.empty()) {
        const std::string_view text = work.back();
        work.pop_back();
        for (size_t at = text.find(kInclude); at != std::string_view::npos; at = text.find(kInclude, at + 1)) {
            const size_t begin = at + std::string_view("#include \"").size(), end = text.find('"', begin);
            if (end == std::string_view::npos) break;
            const EmbeddedFile* file = find_embedded(text.substr(begin, end - begin));
            if (file == nullptr || std::find(found.begin(), found.end(), file) != found.end()) continue;
            found.push_back(file);
            work.push_back(file->text);
        }
    }
    return found;
}

/// Options that are part of what the code is; the include path of CUDA's own headers is not.
std::vector<std::string> language_options(const Arch& arch) {
    std::vector<std::string> options{"--std=c++17", "--device-as-default-execution-space",
                                     "-DPLANISH_SM=" + std::to_string(arch.number())};
    if (arch.at_least(90)) options.emplace_back("-DPLANISH_PDL=1");
    if (arch.is_hopper()) options.emplace_back("-DPLANISH_WGMMA=1");
    return options;
}

/// The number behind `label` in the assembler's report, or `missing`.
int number_before(std::string_view log, std::string_view label, int missing) {
    const size_t at = log.find(label);
    if (at == std::string_view::npos) return missing;
    size_t begin = at;
    while (begin > 0 && log[begin - 1] >= '0' && log[begin - 1] <= '9') --begin;
    int value = missing;
    std::from_chars(log.data() + begin, log.data() + at, value);
    return value;
}

// "ptxas info : 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", "Used 32 registers, 1024 bytes smem"
Resources read_resources(std::string_view log) {
    Resources r;
    r.registers = number_before(log, " registers", -1);
    r.spilled_bytes = number_before(log, " bytes spill stores", 0) + number_before(log, " bytes spill loads", 0);
    r.static_shared = number_before(log, " bytes smem", 0);
    return r;
}

/// NVRTC's option for `arch` and whether it gives machine code: PTX for the highest architecture that it knows below.
std::pair<std::string, bool> arch_option(const Nvrtc& nvrtc, const Arch& arch) {
    if (std::find(nvrtc.archs.begin(), nvrtc.archs.end(), arch.number()) != nvrtc.archs.end())
        return {"--gpu-architecture=" + arch.name(), true};
    int best = 0;
    for (const int known : nvrtc.archs)
        if (known <= arch.number()) best = known;
    if (best == 0)
        fail(ErrorCode::unsupported, "NVRTC " + nvrtc.version + " does not compile for " + arch.name(),
             "install another version of the pip package nvidia-cuda-nvrtc");
    return {"--gpu-architecture=compute_" + std::to_string(best), false};
}

[[noreturn]] void fail_without_nvrtc(size_t kernels, const Arch& arch) {
    fail(ErrorCode::unsupported,
         std::to_string(kernels) + " kernels have to be compiled for " + arch.name() + ", but " + nvrtc_problem(),
         "pip install nvidia-cuda-nvrtc nvidia-cuda-runtime, install a CUDA toolkit, or name its folder in "
         "PLANISH_CUDA_PATH; a plan built for cuda:" +
             arch.name() + " with these shapes needs no compiler. `planish doctor` shows what was found");
}

}  // namespace

namespace {

/// The code that this process uses or is making: programs that are compiled one after the other, or at once, share it.
class BinariesInUse {
  public:
    using Shared = std::shared_ptr<const Binary>;

    /// Null: none, or it is being made.
    Shared find(const std::string& key) {
        const std::lock_guard lock(mutex_);
        const auto it = used_.find(key);
        return it != used_.end() ? it->second.lock() : nullptr;
    }

    /// Made by the first who asks; who comes while it is being made waits for it.
    template <typename Make>
    Shared get(const std::string& key, const Make& make) {
        std::promise<Shared> promise;
        std::shared_future<Shared> made;
        {
            const std::lock_guard lock(mutex_);
            if (const auto it = used_.find(key); it != used_.end())
                if (Shared binary = it->second.lock()) return binary;
            const auto [it, is_first] = under_way_.try_emplace(key);
            if (is_first)
                it->second = promise.get_future().share();
            else
                made = it->second;
        }
        if (made.valid()) return made.get();
        const auto leave = [&](const Shared& binary) {
            const std::lock_guard lock(mutex_);
            under_way_.erase(key);
            if (binary != nullptr) keep_locked(key, binary);
        };
        try {
            Shared binary = make();
            leave(binary);
            promise.set_value(binary);
            return binary;
        } catch (...) {
            leave(nullptr);
            promise.set_exception(std::current_exception());
            throw;
        }
    }

    void keep(const std::string& key, const Shared& binary) {
        const std::lock_guard lock(mutex_);
        keep_locked(key, binary);
    }

  private:
    void keep_locked(const std::string& key, const Shared& binary) {
        if (used_.size() >= most_) {
            std::erase_if(used_, [](const auto& entry) { return entry.second.expired(); });
            most_ = 2 * used_.size() + 64;
        }
        used_[key] = binary;
    }

    std::mutex mutex_;
    size_t most_ = 64;  // entries before those that nobody uses are forgotten
    std::unordered_map<std::string, std::weak_ptr<const Binary>> used_;
    std::unordered_map<std::string, std::shared_future<Shared>> under_way_;
};

BinariesInUse& binaries_in_use() {
    static BinariesInUse binaries;
    return binaries;
}

}  // namespace

std::string binary_key(const KernelSpec& spec, const Arch& arch) {
    Hasher hasher;
    hasher.update(spec.name).update(spec.source).update(arch.name());
    for (const std::string& option : language_options(arch)) hasher.update(option);
    for (const EmbeddedFile* file : includes_of(spec.source)) hasher.update(file->text);
    return hasher.digest().to_hex();
}

std::shared_ptr<const Binary> compile_kernel(const KernelSpec& spec, const Arch& arch) {
    const Nvrtc* nvrtc = cuda::nvrtc();
    if (nvrtc == nullptr) fail_without_nvrtc(1, arch);
    std::vector<std::string> options = language_options(arch);
    const auto [arch_text, machine_code] = arch_option(*nvrtc, arch);
    options.push_back(arch_text);
    options.push_back("--include-path=" + nvrtc->include.string());
    options.emplace_back("--ptxas-options=--verbose");
    std::vector<const char*> pointers;
    for (const std::string& option : options) pointers.push_back(option.c_str());

    const std::vector<const EmbeddedFile*> included = includes_of(spec.source);
    std::vector<std::string> texts, names;
    for (const EmbeddedFile* file : included) {
        texts.emplace_back(file->text);
        names.emplace_back(file->name);
    }
    std::vector<const char*> text_pointers, name_pointers;
    for (size_t i = 0; i < texts.size(); ++i) {
        text_pointers.push_back(texts[i].c_str());
        name_pointers.push_back(names[i].c_str());
    }
    Nvrtc::Program program = nullptr;
    const std::string file = spec.name + ".cu";
    if (const int error =
            nvrtc->CreateProgram(&program, spec.source.c_str(), file.c_str(), static_cast<int>(texts.size()),
                                 text_pointers.data(), name_pointers.data()))
        fail(ErrorCode::internal, "NVRTC: " + std::string(nvrtc->GetErrorString(error)));
    const std::shared_ptr<void> owner(program, [nvrtc](void* p) {
        auto* q = static_cast<Nvrtc::Program>(p);
        nvrtc->DestroyProgram(&q);
    });
    const int error = nvrtc->CompileProgram(program, static_cast<int>(pointers.size()), pointers.data());
    size_t length = 0;
    nvrtc->GetProgramLogSize(program, &length);
    std::string log(length, '\0');
    if (length > 0) nvrtc->GetProgramLog(program, log.data());
    if (error != 0)
        fail(ErrorCode::internal, "NVRTC refuses kernel '" + spec.name + "' for " + arch.name() + ": " +
                                      nvrtc->GetErrorString(error) + "\n" + log.c_str());
    auto binary = std::make_shared<Binary>();
    binary->key = binary_key(spec, arch);
    size_t bytes = 0;
    (machine_code ? nvrtc->GetCUBINSize : nvrtc->GetPTXSize)(program, &bytes);
    binary->code.resize(bytes);
    (machine_code ? nvrtc->GetCUBIN : nvrtc->GetPTX)(program, reinterpret_cast<char*>(binary->code.data()));
    if (machine_code) binary->resources = read_resources(log);
    return binary;
}

std::vector<std::shared_ptr<const Binary>> compile_kernels(std::span<const KernelSpec* const> specs, const Arch& arch,
                                                           const KernelBinaries* given, const KernelCache& cache) {
    std::vector<std::shared_ptr<const Binary>> result(specs.size());
    std::unordered_map<std::string, size_t> first;  // key -> index of the first spec with it
    std::vector<std::string> keys(specs.size());
    std::vector<size_t> missing;
    for (size_t i = 0; i < specs.size(); ++i) {
        keys[i] = binary_key(*specs[i], arch);
        if (!first.emplace(keys[i], i).second) continue;
        if (given != nullptr) {
            if (const auto it = given->find(keys[i]); it != given->end()) {
                result[i] = std::make_shared<const Binary>(
                    Binary{keys[i], std::vector<std::byte>(it->second.begin(), it->second.end()), {}});
                continue;
            }
        }
        result[i] = binaries_in_use().find(keys[i]);
        if (result[i]) continue;
        result[i] = cache.find(keys[i]);
        if (result[i])
            binaries_in_use().keep(keys[i], result[i]);
        else
            missing.push_back(i);
    }
    if (!missing.empty()) {
        if (nvrtc() == nullptr) fail_without_nvrtc(missing.size(), arch);
        ThreadPool& pool = ThreadPool::process();
        pool.parallel_for(static_cast<int64_t>(missing.size()), pool.size(), [&](int64_t m, int) {
            const size_t i = missing[static_cast<size_t>(m)];
            result[i] = binaries_in_use().get(keys[i], [&] {
                auto binary = compile_kernel(*specs[i], arch);
                cache.add(*binary);
                return binary;
            });
        });
        cache.trim();
    }
    for (size_t i = 0; i < specs.size(); ++i) result[i] = result[first.at(keys[i])];
    return result;
}

// ---- the cache on disk

KernelCache KernelCache::of_user() {
    if (const char* folder = std::getenv("PLANISH_KERNEL_CACHE")) return KernelCache(folder);
    for (const auto& [variable, below] : {std::pair("XDG_CACHE_HOME", ""), std::pair("HOME", ".cache")})
        if (const char* value = std::getenv(variable); value != nullptr && *value != '\0')
            return KernelCache(fs::path(value) / below / "planish" / "kernels");
    return KernelCache({});
}

fs::path KernelCache::path(const std::string& key) const {
    return folder_ / key.substr(0, 2) / key.substr(2);
}

// A file is the code behind the hash of the code: what a crash or a full disk left is told from the whole.
std::shared_ptr<const Binary> KernelCache::find(const std::string& key) const {
    if (folder_.empty()) return nullptr;
    const fs::path file = path(key);
    std::error_code error;
    if (!fs::exists(file, error)) return nullptr;
    try {
        const MappedFile mapped(file);
        const auto bytes = mapped.bytes();
        if (bytes.size() <= 32) return nullptr;
        const auto code = bytes.subspan(32);
        if (hash128(code).to_hex() != std::string_view(reinterpret_cast<const char*>(bytes.data()), 32)) return nullptr;
        fs::last_write_time(file, fs::file_time_type::clock::now(), error);
        return std::make_shared<const Binary>(Binary{key, std::vector<std::byte>(code.begin(), code.end()), {}});
    } catch (const Error&) {
        return nullptr;  // another process took it away
    }
}

void KernelCache::add(const Binary& binary) const {
    if (folder_.empty()) return;
    const fs::path file = path(binary.key);
    std::error_code error;
    fs::create_directories(file.parent_path(), error);
    try {
        AtomicFile out(file);
        const std::string hash = hash128(binary.code).to_hex();
        out.write(std::as_bytes(std::span(hash.data(), hash.size())));
        out.write(binary.code);
        out.commit();
    } catch (const Error&) {
    }
}

namespace {
struct CachedFile {
    fs::path path;
    fs::file_time_type used;
    int64_t bytes;
};
std::vector<CachedFile> files_below(const fs::path& folder) {
    std::vector<CachedFile> files;
    std::error_code error;
    for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        std::error_code gone;
        if (!it->is_regular_file(gone)) continue;
        const auto bytes = static_cast<int64_t>(it->file_size(gone));
        const auto used = it->last_write_time(gone);
        if (!gone) files.push_back({it->path(), used, bytes});
    }
    return files;
}
}  // namespace

void KernelCache::trim() const {
    if (folder_.empty()) return;
    std::vector<CachedFile> files = files_below(folder_);
    int64_t total = 0;
    for (const CachedFile& file : files) total += file.bytes;
    if (total <= limit_) return;
    std::sort(files.begin(), files.end(), [](const CachedFile& a, const CachedFile& b) { return a.used < b.used; });
    // To three quarters, so that not every addition has to remove something.
    for (const CachedFile& file : files) {
        if (total <= limit_ / 4 * 3) break;
        std::error_code error;
        if (fs::remove(file.path, error)) total -= file.bytes;
    }
}

std::pair<int64_t, int64_t> KernelCache::size() const {
    std::pair<int64_t, int64_t> result{0, 0};
    if (folder_.empty()) return result;
    for (const CachedFile& file : files_below(folder_)) {
        ++result.first;
        result.second += file.bytes;
    }
    return result;
}

}  // namespace planish::cuda
