// Affinity through sched_getaffinity, core siblings through sysfs, quota through /proc/self/{mountinfo,cgroup}.
#include "base/cpu_budget.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace planish {
namespace {

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

bool has_item(const std::string& comma_list, std::string_view item) {
    std::istringstream stream(comma_list);
    for (std::string part; std::getline(stream, part, ',');)
        if (part == item) return true;
    return false;
}

// Quota of one cgroup directory in CPUs; 0 when it sets none.
double quota_v2(const std::string& directory) {
    std::istringstream line(first_line(directory + "/cpu.max"));  // "max 100000" or "150000 100000"
    double quota = 0, period = 0;
    if (!(line >> quota >> period) || quota <= 0 || period <= 0) return 0;
    return quota / period;
}

double quota_v1(const std::string& directory) {
    std::istringstream quota_line(first_line(directory + "/cpu.cfs_quota_us"));  // -1 when unlimited
    std::istringstream period_line(first_line(directory + "/cpu.cfs_period_us"));
    double quota = 0, period = 0;
    if (!(quota_line >> quota) || !(period_line >> period) || quota <= 0 || period <= 0) return 0;
    return quota / period;
}

struct Mount {
    std::string root;   // the cgroup that is mounted
    std::string point;  // where
    bool v2 = false;
};

// The mounts that can hold a CPU limit. mountinfo: "id parent dev root point options... - type source super_options".
std::vector<Mount> cgroup_mounts(const std::string& root) {
    std::vector<Mount> mounts;
    std::ifstream file(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        const size_t dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        std::istringstream head(line.substr(0, dash)), tail(line.substr(dash + 3));
        std::string skip, type, source, options;
        Mount mount;
        head >> skip >> skip >> skip >> mount.root >> mount.point;
        tail >> type >> source >> options;
        mount.v2 = type == "cgroup2";
        if (mount.v2 || (type == "cgroup" && has_item(options, "cpu"))) mounts.push_back(mount);
    }
    return mounts;
}

// The process's cgroup path. /proc/self/cgroup: "0::/path" (v2) or "4:cpu,cpuacct:/path" (v1).
std::string cgroup_path(const std::string& root, bool v2) {
    std::ifstream file(root + "/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t first = line.find(':');
        const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (v2 ? controllers.empty() : has_item(controllers, "cpu")) return line.substr(second + 1);
    }
    return "/";
}

}  // namespace

double cgroup_cpu_quota(const std::string& root) {
    double tightest = 0;
    for (const Mount& mount : cgroup_mounts(root)) {
        std::string path = cgroup_path(root, mount.v2);
        // A bind-mounted subtree (containers): the path is relative to what is mounted.
        if (mount.root != "/" && path.starts_with(mount.root)) path.erase(0, mount.root.size());
        for (;;) {
            if (path == "/") path.clear();
            const std::string directory = root + mount.point + path;
            const double quota = mount.v2 ? quota_v2(directory) : quota_v1(directory);
            if (quota > 0) tightest = tightest == 0 ? quota : std::min(tightest, quota);
            if (path.empty()) break;
            path.erase(std::min(path.rfind('/'), path.size()));
        }
    }
    return tightest;
}

CpuBudget cpu_budget(const std::string& root) {
    CpuBudget budget;
    int logical = 0;
    std::set<std::string> cores;
    // The mask may be wider than cpu_set_t (1024 processors); the kernel answers EINVAL until it fits.
    for (int bits = CPU_SETSIZE; bits <= 1 << 20; bits *= 4) {
        cpu_set_t* set = CPU_ALLOC(bits);
        if (!set) break;
        const size_t bytes = CPU_ALLOC_SIZE(bits);
        CPU_ZERO_S(bytes, set);
        if (sched_getaffinity(0, bytes, set) == 0) {
            for (int cpu = 0; cpu < bits; ++cpu) {
                if (!CPU_ISSET_S(cpu, bytes, set)) continue;
                ++logical;
                const std::string siblings =
                    first_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
                cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
            }
            CPU_FREE(set);
            break;
        }
        CPU_FREE(set);
    }
    budget.quota = cgroup_cpu_quota(root);
    const int limit = budget.quota > 0 ? std::max(1, static_cast<int>(std::ceil(budget.quota - 0.01))) : 1 << 20;
    budget.logical = std::clamp(logical, 1, limit);
    budget.cores = std::clamp(static_cast<int>(cores.size()), 1, limit);
    return budget;
}

const CpuBudget& process_cpu_budget() {
    static const CpuBudget budget = cpu_budget();
    return budget;
}

}  // namespace planish
