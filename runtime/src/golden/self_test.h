#pragma once

#include "api/session.h"
#include "golden/inputs.h"

namespace actquant {

GoldenLayout golden_layout(const PolicySpec& spec);

// How far chunks are from others: per chunk the root mean square of the difference, in standard
// deviations of each action; over the chunks their mean and the largest.
struct Distance {
    double mean = 0;
    double worst = 0;
};

struct SelfTest {
    size_t inputs = 0;
    Distance stored;    // from what this file answered where it was made
    Distance reference; // from what PyTorch answered before compression; NaN where it is unknown
    double limit = 0;   // on stored.worst
    bool passed = false;
};

// Runs the file's golden inputs. Throws FileError if it has none, or if they are damaged.
SelfTest run_self_test(Session& session);

} // namespace actquant
