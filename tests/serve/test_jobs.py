"""Jobs that nobody asks for."""

from manymask.serve.jobs import Job, Jobs


def test_jobs_that_are_over_are_forgotten_even_if_nobody_asked_for_them(monkeypatch):
    monkeypatch.setattr("manymask.serve.jobs._NUM_KEPT", 3)
    jobs = Jobs()
    for _ in range(12):
        job = Job("predict")
        job.refresh = lambda job=job: setattr(job, "status", "done")  # which only a look at it tells
        jobs.add(job)
    assert len(jobs.list_jobs()) == 3
