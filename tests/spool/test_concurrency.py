"""Windows, pauses and rates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailstack.spool.concurrency import BURST_SECONDS, CROWDED_SECONDS, Bucket, Pauses, Rate, Window

NOW = 1_000.0


class TestWindow:
    def test_begins_with_what_it_is_told_within_what_may_be(self):
        assert Window(5, 20).places(NOW) == 5
        assert Window(5, 2).places(NOW) == 2

    def test_a_window_of_successes_makes_it_one_larger(self):
        window = Window(5, 20)
        for _ in range(5):
            window.succeeded(5, 5)
        assert window.places(NOW) in (5, 6)
        window.succeeded(5, 5)
        assert window.places(NOW) == 6

    def test_is_never_larger_than_what_is_used_and_the_beginning(self):
        window = Window(5, 20)
        for _ in range(1_000):
            window.succeeded(1, 5)
        assert window.places(NOW) == 6

    def test_five_failures_are_a_cohort(self):
        window = Window(5, 20)
        assert [window.failed() for _ in range(5)] == [False, False, False, False, True]

    def test_a_success_between_them_begins_the_count_anew(self):
        window = Window(5, 20)
        assert not any(window.failed() for _ in range(4))
        window.succeeded(5, 5)
        assert not window.failed()

    def test_of_one_a_failure_is_a_cohort(self):
        window = Window(1, 20)
        assert window.failed()
        assert window.places(NOW) == 1

    def test_crowded(self):
        window = Window(10, 20)
        assert not window.crowded(7, NOW)
        assert window.places(NOW) == 6
        for _ in range(200):
            window.succeeded(20, 5)
        assert window.places(NOW + CROWDED_SECONDS - 1) == 6
        assert window.places(NOW + CROWDED_SECONDS) > 6

    def test_a_smaller_limit(self):
        window = Window(5, 20)
        window.limit(3)
        assert window.places(NOW) == 3

    def test_even_one_is_too_many(self):
        assert Window(1, 20).crowded(1, NOW)

    @given(st.lists(st.sampled_from("sfc")), st.integers(1, 30), st.integers(1, 30))
    def test_is_within_its_bounds(self, steps, initial, most):
        window = Window(initial, most)
        for step in steps:
            if step == "s":
                window.succeeded(most, initial)
            elif step == "f":
                window.failed()
            else:
                window.crowded(window.places(NOW), NOW)
            assert 1 <= window.places(NOW) <= most


class TestPauses:
    def test_double_up_to_a_bound(self):
        pauses = Pauses(300.0, 3_600.0)
        assert [pauses.seconds(cohorts, 0.5) for cohorts in range(1, 7)] == [300, 600, 1_200, 2_400, 3_600, 3_600]
        assert pauses.seconds(10_000, 0.5) == 3_600

    def test_are_spread(self):
        assert Pauses().seconds(1, 0.0) < Pauses().seconds(1, 0.5) < Pauses().seconds(1, 0.99)


class TestBucket:
    @given(
        st.sampled_from([Rate(1, 1.0), Rate(10, 1.0), Rate(100, 60.0), Rate(7, 3_600.0), Rate(1_000_000, 1.0)]),
        st.lists(st.floats(0, 100), max_size=60),
    )
    def test_never_more_than_the_rate_and_a_burst(self, rate, gaps):
        bucket, now = Bucket(rate), NOW
        times = []
        for gap in gaps:
            now += gap
            while bucket.ready_at(now) <= now and len(times) < 500:
                bucket.take(now)
                times.append(now)
        for first, start in enumerate(times):
            within = sum(start <= each < start + rate.seconds for each in times[first:])
            assert within <= rate.messages + max(1, min(BURST_SECONDS, rate.seconds) / rate.each_seconds) + 1

    def test_is_ready_when_it_says(self):
        bucket = Bucket(Rate(60, 3_600.0))
        bucket.take(NOW)
        at = bucket.ready_at(NOW)
        assert at == NOW + 60
        assert bucket.ready_at(at) == at

    def test_what_did_not_go_is_not_counted(self):
        bucket = Bucket(Rate(60, 3_600.0))
        bucket.take(NOW)
        bucket.give_back()
        assert bucket.ready_at(NOW) == NOW
