// Prints a target of a TUF repository, as sigstore-js gets its own. The test that runs it names the
// four arguments.
import { initTUF } from '@sigstore/tuf'

const [mirrorURL, rootPath, cachePath, target] = process.argv.slice(2)
const client = await initTUF({ mirrorURL, rootPath, cachePath, forceCache: false })
process.stdout.write(await client.getTarget(target))
