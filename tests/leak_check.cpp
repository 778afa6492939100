// LeakSanitizer's thread that scans the process at exit can crash on the thread-local storage of compilers opened at
// run time ("Tracer caught signal 11"): a process that has opened NVRTC goes without this check, all others keep it.
// The sanitizer's library looks the function up by name, so it must be exported: hidden, the linker drops it.
#include <link.h>

#include <cstring>

extern "C" [[gnu::visibility("default")]] int __lsan_is_turned_off();  // NOLINT: the sanitizer's name for it

extern "C" int __lsan_is_turned_off() {  // NOLINT
    return dl_iterate_phdr([](dl_phdr_info* library, size_t,
                              void*) { return std::strstr(library->dlpi_name, "nvrtc") != nullptr ? 1 : 0; },
                           nullptr);
}
