// A non-owning reference to a callable: two words, no allocation, for callbacks that do not outlive the call.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace planish {

template <typename Signature>
class FunctionRef;

/// Refers to any callable with a compatible signature. The callable must live as long as the reference is called.
template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
  public:
    template <typename F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<R, F&, Args...>)
        FunctionRef(F&& callable) {  // NOLINT: implicit by purpose, so that a lambda can be passed in place
        using Callable = std::remove_reference_t<F>;
        if constexpr (std::is_function_v<Callable>) {
            object_ = reinterpret_cast<void*>(&callable);
            call_ = [](void* object, Args... args) -> R {
                return reinterpret_cast<Callable*>(object)(std::forward<Args>(args)...);
            };
        } else {
            object_ = const_cast<void*>(static_cast<const void*>(std::addressof(callable)));
            call_ = [](void* object, Args... args) -> R {
                return (*static_cast<Callable*>(object))(std::forward<Args>(args)...);
            };
        }
    }

    R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

  private:
    void* object_ = nullptr;
    R (*call_)(void*, Args...) = nullptr;
};

}  // namespace planish
