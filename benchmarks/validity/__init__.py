"""Whether corrected counts are right: simulations with known truth, null checks, real cells."""
