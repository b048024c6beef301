from k8s_collector.object_table import ObjectTable


def test_objects_are_told_when_they_change_and_retired_once():
    table = ObjectTable()
    table.put("a", "web")
    table.put("b", "database")
    assert table.take_changes() == (["web", "database"], [])
    table.put("a", "web")
    table.put("b", "database 2")
    assert table.take_changes() == (["database 2"], [])
    table.retire("a")
    assert table.take_changes() == ([], ["a"])
    assert table.take_changes() == ([], [])
    assert list(table.messages()) == ["database 2"]


def test_what_comes_and_goes_between_two_calls_is_what_it_was_last():
    table = ObjectTable()
    table.put("a", "web")
    table.retire("a")
    assert table.take_changes() == ([], ["a"])
    table.put("a", "web")
    table.take_changes()
    table.retire("a")
    table.put("a", "web")
    assert table.take_changes() == (["web"], [])
