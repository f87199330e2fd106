"""What two machines do that have mounted the same folder. Run where there are two such mounts, by
tests/end_to_end/test_nfs.py and test_cephfs.py: ``SHARED_FOLDERS=one:two``, seen at ``SHARED_AT`` by each machine.
"""
