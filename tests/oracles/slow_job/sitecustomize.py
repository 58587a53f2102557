"""Python runs this file when its folder is on the path: the processes of jobs know the job of the tests."""

import slow

slow.register()
