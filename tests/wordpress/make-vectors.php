<?php
/**
 * Prints tests/vectors/signatures.json, which the tests of the plugin and of the server run. check-vectors.py
 * verifies it with another implementation.
 *
 *     php tests/wordpress/make-vectors.php > tests/vectors/signatures.json
 */

require __DIR__ . '/stand-ins.php';

$secret   = '6b1f0d3c9a52e84771c0d5b8f29e3a6406d7c1b8e5f3924a7d60c8b1e2f4a953';
$previous = 'another secret of printable ASCII, with spaces and 42 digits';
$now      = 1790000000;
$keys     = array();
foreach ( array( 'events', 'tickets', 'requests' ) as $purpose ) {
	$keys[ $purpose ] = Buddyline_Signature::derive_key( $secret, $purpose );
}
$old = Buddyline_Signature::derive_key( $previous, 'events' );

$body = '{"id":"0123456789abcdef","sentAt":1790000000,"site":"https://community.example","plugin":"0.1.0","events":[{"type":"block","userId":3,"blockedId":7}]}';
$good = Buddyline_Signature::sign( array( $keys['events'] ), $body, $now );
$hex  = substr( $good, -64 );

$signatures = array();
$add        = function ( $why, $valid, $header, $options = array() ) use ( &$signatures, $now, $body ) {
	$signatures[] = array(
		'key'    => isset( $options['key'] ) ? $options['key'] : 'events',
		't'      => isset( $options['t'] ) ? $options['t'] : $now,
		'body'   => isset( $options['body'] ) ? $options['body'] : $body,
		'header' => $header,
		'valid'  => $valid,
		'now'    => isset( $options['now'] ) ? $options['now'] : $now,
		'why'    => $why,
	);
};

$add( 'an event', true, $good );
$text = "{\"id\":\"0123456789abcdef\",\"text\":\"gr\u{fc}\u{df}e \u{1f600} \u{5d0} \\u0000 \\\" \\\\ </script>\"}\n";
$add( 'UTF-8, escapes and a line feed at the end', true, Buddyline_Signature::sign( array( $keys['events'] ), $text, $now ), array( 'body' => $text ) );
$add( 'an empty body', true, Buddyline_Signature::sign( array( $keys['requests'] ), '', $now ), array( 'key' => 'requests', 'body' => '' ) );
$add( 'a request of the server', true, Buddyline_Signature::sign( array( $keys['requests'] ), $body, $now ), array( 'key' => 'requests' ) );
$add( 'the oldest time in the window', true, $good, array( 'now' => $now + 300 ) );
$add( 'the newest time in the window', true, $good, array( 'now' => $now - 300 ) );
$add( 'one second too old', false, $good, array( 'now' => $now + 301 ) );
$add( 'one second too new', false, $good, array( 'now' => $now - 301 ) );
$add( 'two signatures, the second is valid', true, Buddyline_Signature::sign( array( $old, $keys['events'] ), $body, $now ) );
$add( 'two signatures, the first is valid', true, Buddyline_Signature::sign( array( $keys['events'], $old ), $body, $now ) );
$add( 'unknown parts are ignored', true, 't=' . $now . ',v0=abc,kid=2,v1=' . $hex );
$add( 'the parts in another order', true, 'v1=' . $hex . ',t=' . $now );
$add( 'signed with another secret', false, Buddyline_Signature::sign( array( $old ), $body, $now ) );
$add( 'signed with the key for requests', false, Buddyline_Signature::sign( array( $keys['requests'] ), $body, $now ) );
$add( 'signed with the key for tickets', false, Buddyline_Signature::sign( array( $keys['tickets'] ), $body, $now ) );
$add( 'signed with the secret itself', false, 't=' . $now . ',v1=' . hash_hmac( 'sha256', $now . '.' . $body, $secret ) );
$add( 'a changed body', false, $good, array( 'body' => str_replace( '"blockedId":7', '"blockedId":8', $body ) ) );
$add( 'a byte more', false, $good, array( 'body' => $body . ' ' ) );
$add( 'a changed time', false, 't=' . ( $now + 1 ) . ',v1=' . $hex, array( 't' => $now + 1 ) );
$add( 'the time with a zero in front was not signed', false, 't=0' . $now . ',v1=' . $hex );
$add( 'upper-case digits', false, 't=' . $now . ',v1=' . strtoupper( $hex ) );
$add( 'a signature that is too short', false, 't=' . $now . ',v1=' . substr( $hex, 0, 63 ) );
$add( 'a signature that is too long', false, 't=' . $now . ',v1=' . $hex . '0' );
$add( 'an empty signature', false, 't=' . $now . ',v1=' );
$add( 'no signature', false, 't=' . $now );
$add( 'no time', false, 'v1=' . $hex );
$add( 'a time that is no number', false, 't=now,v1=' . $hex );
$add( 'a negative time', false, 't=-1,v1=' . hash_hmac( 'sha256', '-1.' . $body, $keys['events'] ), array( 't' => -1, 'now' => 0 ) );
$add( 'a signature of another version only', false, 't=' . $now . ',v2=' . $hex );
$add( 'an empty header', false, '' );
$add( 'commas only', false, ',,,,' );

$claims = array(
	'iss'     => 'https://community.example',
	'aud'     => 'buddyline',
	'sub'     => '3',
	'iat'     => $now,
	'exp'     => $now + 300,
	'jti'     => '00112233445566778899aabbccddeeff',
	'sid'     => 'b4c1d2e3f405162738495a6b7c8d9e0f',
	'threads' => array( 22, 1, 21, 5 ),
	'blocked' => array( 7 ),
	'more'    => false,
);
$tickets = array();
$ticket  = function ( $why, $valid, $claims, $token, $at ) use ( &$tickets ) {
	$tickets[] = array(
		'claims' => $claims,
		'token'  => $token,
		'valid'  => $valid,
		'now'    => $at,
		'why'    => $why,
	);
};
$token   = Buddyline_Ticket::encode( $claims, $secret );
$parts   = explode( '.', $token );
$changed = function ( $changes ) use ( $claims ) {
	return array_merge( $claims, $changes );
};
$signed  = function ( $header, $claims, $key ) {
	$text = Buddyline_Signature::base64url( $header ) . '.' . Buddyline_Signature::base64url( json_encode( $claims, JSON_UNESCAPED_SLASHES ) );
	return $text . '.' . Buddyline_Signature::base64url( hash_hmac( 'sha256', $text, $key, true ) );
};
$ticket( 'a ticket', true, $claims, $token, $now + 1 );
$ticket( 'shortly before its end', true, $claims, $token, $now + 299 );
$without = $changed( array( 'threads' => array(), 'blocked' => array() ) );
$ticket( 'no threads and no blocks', true, $without, Buddyline_Ticket::encode( $without, $secret ), $now );
$cut = $changed( array( 'threads' => range( 500, 1 ), 'blocked' => range( 1000, 1999 ), 'more' => true ) );
$ticket( 'the longest lists', true, $cut, Buddyline_Ticket::encode( $cut, $secret ), $now );
$ticket( 'expired', false, $claims, $token, $now + 700 );
$ticket( 'signed with another secret', false, $claims, Buddyline_Ticket::encode( $claims, $previous ), $now );
$ticket( 'signed with the key for events', false, $claims, $signed( '{"typ":"JWT","alg":"HS256","kid":"buddyline-ticket"}', $claims, $keys['events'] ), $now );
$ticket( 'signed with the secret itself', false, $claims, $signed( '{"typ":"JWT","alg":"HS256","kid":"buddyline-ticket"}', $claims, $secret ), $now );
$ticket( 'another user in the claims', false, $claims, $parts[0] . '.' . Buddyline_Signature::base64url( json_encode( $changed( array( 'sub' => '1' ) ), JSON_UNESCAPED_SLASHES ) ) . '.' . $parts[2], $now );
$ticket( 'without a signature', false, $claims, $parts[0] . '.' . $parts[1] . '.', $now );
$ticket( 'the algorithm "none"', false, $claims, Buddyline_Signature::base64url( '{"typ":"JWT","alg":"none","kid":"buddyline-ticket"}' ) . '.' . $parts[1] . '.', $now );
$ticket( 'the algorithm "none" with a valid signature', false, $claims, $signed( '{"typ":"JWT","alg":"none","kid":"buddyline-ticket"}', $claims, $keys['tickets'] ), $now );
foreach ( array(
	'for another site'                => array( 'iss' => 'https://other.example' ),
	'for another audience'            => array( 'aud' => 'other' ),
	'a user that is no number'        => array( 'sub' => 'alice' ),
	'user 0'                          => array( 'sub' => '0' ),
	'no user'                         => array( 'sub' => '' ),
) as $why => $changes ) {
	$ticket( $why, false, $changed( $changes ), Buddyline_Ticket::encode( $changed( $changes ), $secret ), $now );
}
$ticket( 'cut off', false, $claims, substr( $token, 0, -5 ), $now );
$ticket( 'two parts', false, $claims, $parts[0] . '.' . $parts[1], $now );
$ticket( 'not a ticket', false, $claims, 'abc', $now );
$ticket( 'empty', false, $claims, '', $now );

$line = function ( $value ) {
	return json_encode( $value, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE );
};
// One case a line, so that a change shows which.
printf(
	"{\n\"secret\": %s,\n\"site\": %s,\n\"derived\": %s,\n\"signatures\": [\n%s\n],\n\"tickets\": [\n%s\n]\n}\n",
	$line( $secret ),
	$line( 'https://community.example' ),
	$line( array_map( 'bin2hex', $keys ) ),
	implode( ",\n", array_map( $line, $signatures ) ),
	implode( ",\n", array_map( $line, $tickets ) )
);
