import numpy as np

from reducer.columns.row_store import MOST_SUM
from reducer.matching.balance_limit import MOST_AHEAD, MOST_BEHIND, BalanceLimit
from reducer.matching.flows import MOST_FLOWS


def test_balances_are_cut_and_counted():
    limit = BalanceLimit()
    told = np.array([0, -MOST_BEHIND, -MOST_BEHIND - 1, MOST_AHEAD, MOST_AHEAD + 1, 7])
    assert limit.keep(told).tolist() == [0, -MOST_BEHIND, -MOST_BEHIND, MOST_AHEAD, MOST_AHEAD, 7]
    assert limit.cut == 2


def test_what_all_flows_together_may_emit_fits():
    assert np.iinfo(np.int64).max > 2 * MOST_FLOWS * MOST_AHEAD + 2 * MOST_SUM
