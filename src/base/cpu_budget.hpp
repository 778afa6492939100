// How many processors this process may really use: scheduler affinity and cgroup (v1, v2) CPU quota.
#pragma once

#include <string>

namespace planish {

struct CpuBudget {
    int logical = 1;   ///< hardware threads of the affinity mask, lowered to the quota, rounded up
    int cores = 1;     ///< the same, hyper-threads of one core counted once: the default for compute-bound work
    double quota = 0;  ///< CPUs granted by the tightest cgroup limit; 0 means unlimited
};

/// The tightest CPU quota of the process's cgroup and all its ancestors, in CPUs; 0 means unlimited.
/// `root` is put in front of /proc and of the mount points, so that tests can lay out a file system of their own.
double cgroup_cpu_quota(const std::string& root = {});

/// Reads the calling thread's affinity and the process's cgroup limits (below `root`, see above). Never fails: what
/// cannot be read does not limit.
CpuBudget cpu_budget(const std::string& root = {});

/// As it was when this was called first: what the thread pool and the engines' default number of threads rest on.
const CpuBudget& process_cpu_budget();

}  // namespace planish
