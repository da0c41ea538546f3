"""nodelocal as three processes: one that owns sockets and rules, one that answers, one that knows the API server.

The supervisor and the worker say lines to each other (``kdns.lines``):

| to the worker               | meaning                                                                            |
|-----------------------------|------------------------------------------------------------------------------------|
| ``{"ask": number}``         | say that you live                                                                  |
| ``{"watch": line}``         | a line of the watcher (``nodelocal.watcher``)                                      |
| ``{"facts": {…}}``          | what the supervisor counts, for the metrics                                        |
| ``{"reloads": {…}}``        | what came of reading the configuration file again (``kdns.reload``)                |
| ``{"dump": path}``          | write the cache there, for whoever comes next                                      |
| ``{"end": seconds}``        | stop in so long, and answer until then                                             |
| ``{"hold": seconds}``       | the same, but take nothing new: another one does                                   |

| from the worker             | meaning                                                                            |
|-----------------------------|------------------------------------------------------------------------------------|
| ``{"told": number, …}``     | it lives; ``up``: it answers; ``ready``: and has all that it is to answer from     |
| ``{"dumped": count}``       | the cache is written                                                               |
"""
