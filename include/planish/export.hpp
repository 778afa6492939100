// PLANISH_API marks what libplanish.so and libplanish_runtime.so export; everything else is compiled hidden.
#pragma once

#define PLANISH_API __attribute__((visibility("default")))
