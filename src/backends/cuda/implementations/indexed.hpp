// Rows of table.cpp from indexed.cpp and rearranged.cpp.
#pragma once

#include "backends/cuda/implementation.hpp"

namespace planish::cuda::families {

extern const Implementation kElements;  ///< GatherElements, ScatterElements
extern const Implementation kTuples;    ///< GatherND, ScatterND
extern const Implementation kCumSum, kTopK;
extern const Implementation kRearrange;  ///< DepthToSpace, SpaceToDepth, Tile

}  // namespace planish::cuda::families
