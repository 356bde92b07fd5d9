# SPDX-License-Identifier: MIT OR Apache-2.0
# Completion of the sparsestream command for fish.

set -l commands map copy check checksum send recv help
set -l moves '__fish_seen_subcommand_from copy send recv'
set -l wire '__fish_seen_subcommand_from send recv'
set -l sink '__fish_seen_subcommand_from copy recv'

function __sparsestream_addresses
    printf '%s\n' tcp: vsock:
    complete -C"'' "(commandline -ct | string replace -r '^unix:' '') | string replace -r '^' unix:
end

complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -f
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -a map -d 'Show where data and holes are'
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -a copy -d 'Copy a file or a device'
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -a check -d 'Compare two files or devices'
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -a checksum -d 'Print or compare digests'
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -a send -d 'Send to sparsestream recv'
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -a recv -d 'Receive from sparsestream send'
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -a help -d 'Show the options of a command'
complete -c sparsestream -n "not __fish_seen_subcommand_from $commands" -l version -d 'Show the version'
complete -c sparsestream -l help -d 'Show help'

complete -c sparsestream -n "__fish_seen_subcommand_from $commands" -l range -x -d 'OFFSET:LENGTH'

complete -c sparsestream -n '__fish_seen_subcommand_from map' -l json -d 'As qemu-img map'
complete -c sparsestream -n '__fish_seen_subcommand_from map' -l list -d 'A line for each section'
complete -c sparsestream -n '__fish_seen_subcommand_from map' -l rows -x -d 'Rows of the picture'

complete -c sparsestream -n '__fish_seen_subcommand_from copy' -l at -x -d 'Put them there'
complete -c sparsestream -n '__fish_seen_subcommand_from copy check send' -l ignore-map -d 'Read everything'
complete -c sparsestream -n '__fish_seen_subcommand_from check' -l holes -d 'Compare the holes too'
complete -c sparsestream -n '__fish_seen_subcommand_from check' -l quiet -d 'Say nothing of a difference'
complete -c sparsestream -n '__fish_seen_subcommand_from copy check send recv' -l progress -a 'bar json none' -d 'Tell how far it is'

complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l check -d 'Compare with lists of digests'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l json -d 'Print JSON'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l ignore-map -d 'Read everything'
complete -c sparsestream -n '__fish_seen_subcommand_from map check checksum' -l timeout -x -d 'Fail when nothing comes for so many seconds'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l progress -a 'bar json none' -d 'Show the progress'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l ignore-missing -d 'Skip files that do not exist'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l quiet -d 'Print no OK'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l status -d 'Print nothing'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l strict -d 'Fail if a line is improperly formatted'
complete -c sparsestream -n '__fish_seen_subcommand_from checksum' -l warn -d 'Warn of each such line'

complete -c sparsestream -n $moves -l detect-zeroes -d 'Turn blocks of zeros into holes'
complete -c sparsestream -n $moves -l min-hole -x -d 'Write zeros for holes that are shorter'
complete -c sparsestream -n $moves -s v -l verbose -d 'Print each decision'
complete -c sparsestream -n $moves -l explain -d 'Print how many bytes went which way'
complete -c sparsestream -n $moves -l direct -x -a 'never auto always' -d 'Leave the page cache out of it'
complete -c sparsestream -n $moves -l sparse -x -a 'auto required never' -d 'What becomes of holes'
complete -c sparsestream -n $moves -l rate -x -d 'Most bytes of data a second'
complete -c sparsestream -n $moves -l timeout -x -d 'Fail when nothing moved for so many seconds'

complete -c sparsestream -n $sink -l known-zero -d 'The target reads zero already'
complete -c sparsestream -n $sink -l sync -d 'Make it durable before success'
complete -c sparsestream -n $sink -l truncate -d 'Cut a file after what was written'
complete -c sparsestream -n $sink -l no-truncate -d 'Keep the tail of a file'

complete -c sparsestream -n $sink -l device -d 'Fail unless the target is a block device'
complete -c sparsestream -n $sink -l shared -d 'Open a device together with other writers'
complete -c sparsestream -n $moves -l no-lock -d 'Neither lock nor look at locks'
complete -c sparsestream -n $sink -l force -d 'Write even to a terminal'
complete -c sparsestream -n '__fish_seen_subcommand_from copy' -l preserve -a 'mode ownership timestamps xattr all' -d 'Keep attributes of the source'
complete -c sparsestream -n '__fish_seen_subcommand_from copy' -s n -l dry-run -d 'Print what would be done'
complete -c sparsestream -n '__fish_seen_subcommand_from copy' -l verify -d 'Read the target back and compare'
complete -c sparsestream -n '__fish_seen_subcommand_from copy' -l only-changes -d 'Write only blocks that differ'
complete -c sparsestream -n '__fish_seen_subcommand_from copy send' -l on-read-error -x -a 'fail skip' -d 'Where the source cannot be read'
complete -c sparsestream -n '__fish_seen_subcommand_from copy send' -l error-map -r -d 'List of what could not be read'
complete -c sparsestream -n '__fish_seen_subcommand_from copy' -l preallocate -d 'Allocate the blocks before any is written'
complete -c sparsestream -n '__fish_seen_subcommand_from recv' -l mode -x -d 'Of a new file'

complete -c sparsestream -n $wire -l idle-timeout -x -d 'Fail when the peer only shows signs of life'
complete -c sparsestream -n $wire -l connect -x -a '(__sparsestream_addresses)' -d 'Connect to'
complete -c sparsestream -n $wire -l listen -x -a '(__sparsestream_addresses)' -d 'Wait for a connection at'
complete -c sparsestream -n $wire -l exec -x -a '(__fish_complete_command)' -d 'Speak with a command'
complete -c sparsestream -n $wire -l checksum -d 'A checksum for each piece of data'
complete -c sparsestream -n $wire -l no-checksum -d 'Neither checksums nor a digest'
complete -c sparsestream -n $wire -l resume -d 'Resume a transfer that broke off'
complete -c sparsestream -n $wire -l restart -d 'With --resume: else start again'
complete -c sparsestream -n '__fish_seen_subcommand_from send' -l answers -d 'Hear the receiver on standard input'
complete -c sparsestream -n '__fish_seen_subcommand_from send' -l no-identity -d 'Send only the length in advance'
complete -c sparsestream -n '__fish_seen_subcommand_from recv' -l checkpoint -x -d 'Be durable each time this many bytes have come'
complete -c sparsestream -n '__fish_seen_subcommand_from recv' -l state -r -d 'File for what is durable'
complete -c sparsestream -n '__fish_seen_subcommand_from recv' -l max-size -x -d 'Refuse what is longer'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l backing-chain -d 'Use the other files that an image names'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l connections -x -d 'Most connections to an NBD server'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l requests -x -d 'Most requests in flight on each'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l request-size -x -d 'Most bytes of a request'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l memory -x -d 'Most bytes in flight'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l tls-certificates -x -a '(__fish_complete_directories)' -d 'Directory of the certificates'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l tls-psk -r -F -d 'File of the pre-shared keys'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l tls-username -x -d 'Name whose key is used'
complete -c sparsestream -n '__fish_seen_subcommand_from map copy check checksum send recv' -l no-verify-peer -d 'Do not verify the certificate of the server'
