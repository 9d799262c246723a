"""The stages that turn stories into token shards, as pipelines of `datatrove`.

A plan (`plan`) cuts the sources into tasks. Each stage (`stages`) is a pipeline that runs once for each of its tasks,
on one machine, on Slurm or on Ray (`executors`), and leaves its result in files of a work folder, so that a
preparation that was killed goes on with the tasks that were not finished:

    tell        clean, filter and annotate the stories of one piece, sign them, and spool their tokens
    exact       find copies among stories whose digests begin alike
    pairs       find pairs of near copies, one bucket of signatures at a time (of `datatrove`)
    clusters    join the pairs to clusters, of which the first story stays (of `datatrove`)
    extremes    find the lowest and the highest digest of the stories that stay
    count       count the tokens of the training part, task by task
    vocabulary  build the vocabulary of all tasks' counts
    number      renumber the tokens, task by task
    finish      put shards, lists of stories and the report together

No stage depends on how many workers there are or on the order in which tasks end.
"""
