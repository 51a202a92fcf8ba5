// Runs tests.php, and a syntax check of every file of the plugin, under the oldest and the newest
// supported PHP: npm has real ones, compiled to WebAssembly.
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PHP, loadPHPRuntime } from '@php-wasm/universal';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const syntax = `<?php
$wrong = 0;
$files = 0;
foreach ( new RecursiveIteratorIterator( new RecursiveDirectoryIterator( '/repo/wordpress' ) ) as $file ) {
  if ( 'php' !== $file->getExtension() ) continue;
  ++$files;
  try { token_get_all( file_get_contents( $file ), TOKEN_PARSE ); }
  catch ( ParseError $error ) { ++$wrong; echo "$file: ", $error->getMessage(), "\\n"; }
}
echo "PHP ", PHP_VERSION, " syntax: ", $files - $wrong, " passed, $wrong failed\\n";
exit( $wrong > 0 || $files < 15 ? 1 : 0 );`;

// The file system of this PHP is in memory: it gets a copy of what the tests read.
function copy(php, folder) {
  php.mkdir(`/repo/${folder}`);
  for (const name of readdirSync(join(root, folder))) {
    const path = `${folder}/${name}`;
    if (name === 'node_modules') continue;
    if (statSync(join(root, path)).isDirectory()) copy(php, path);
    else php.writeFile(`/repo/${path}`, readFileSync(join(root, path)));
  }
}

async function run(version, request) {
  const { getPHPLoaderModule } = await import(`@php-wasm/node-${version}`);
  const php = new PHP(await loadPHPRuntime(await getPHPLoaderModule(), { processId: 1 }));
  for (const folder of ['tests/wordpress', 'tests/vectors', 'wordpress']) copy(php, folder);
  const result = await php.run(request);
  process.stdout.write(result.text + result.errors);
  return result.exitCode === 0 && result.text.includes(`PHP ${version.replace('-', '.')}.`);
}

let good = true;
for (const version of ['7-4', '8-4']) {
  good = (await run(version, { scriptPath: '/repo/tests/wordpress/tests.php' })) && good;
  good = (await run(version, { code: syntax })) && good;
}
process.exit(good ? 0 : 1);
