#pragma once

#include "backend/profile.h"
#include "graph/graph_builder.h"

namespace actquant {

// What running an instruction once takes, without the time.
OperatorCost cost_of(const GraphBuilder& graph, const Instruction& instruction);

} // namespace actquant
