from reducer.knowledge.last_word import LastWord


def test_the_last_word_stands_and_after_it_the_one_before():
    words = LastWord()
    words.say("node", 1, "a")
    words.say("node", 2, "b")
    assert words.of == {"node": "b"}
    words.say("node", 1, "c")
    assert words.of == {"node": "c"}
    words.withdraw("node", 1)
    assert words.of == {"node": "b"}
    words.withdraw("node", 3)  # which never said anything
    assert words.of == {"node": "b"}
    words.withdraw("node", 2)
    words.withdraw("another", 1)
    assert (words.of, words._said) == ({}, {})
