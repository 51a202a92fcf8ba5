<?php
/**
 * Remembers over PHP requests whether the server answers, and how many events were missed.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The failure memory. Its counters change with one SQL statement each, because many PHP processes
 * change them at once, and an object cache would hide the changes of others.
 */
final class Buddyline_State {

	/**
	 * Names of the counters, without prefix.
	 */
	const NAMES = array( 'failures', 'retry_at', 'missed', 'last_ok', 'last_error', 'last_error_at', 'last_request', 'refused', 'refused_at', 'refused_why' );

	/**
	 * Longest pause between attempts, in seconds.
	 */
	const LONGEST_PAUSE = 60;

	/**
	 * Reads everything in one query.
	 *
	 * @return array<string, int|string>
	 */
	public static function load() {
		global $wpdb;
		$state = array_fill_keys( self::NAMES, 0 );

		$state['last_error']  = '';
		$state['refused_why'] = '';

		$names = array();
		foreach ( self::NAMES as $name ) {
			$names[] = 'buddyline_' . $name;
		}
		$table = Buddyline_Options::table();
		$marks = implode( ', ', array_fill( 0, count( $names ), '%s' ) );
		// phpcs:ignore WordPress.DB.PreparedSQL.InterpolatedNotPrepared, WordPress.DB.PreparedSQLPlaceholders.UnfinishedPrepare, WordPress.DB.DirectDatabaseQuery -- The table's name has no placeholder; see the comment of the class.
		$rows = $wpdb->get_results( $wpdb->prepare( "SELECT option_name, option_value FROM {$table} WHERE option_name IN ( {$marks} )", $names ) );
		foreach ( (array) $rows as $row ) {
			$name           = substr( $row->option_name, strlen( 'buddyline_' ) );
			$state[ $name ] = in_array( $name, array( 'last_error', 'refused_why' ), true ) ? (string) $row->option_value : (int) $row->option_value;
		}
		return $state;
	}

	/**
	 * Sets counters.
	 *
	 * @param array<string, int|string> $values Values by name.
	 */
	public static function set( $values ) {
		global $wpdb;
		$table = Buddyline_Options::table();
		foreach ( $values as $name => $value ) {
			// phpcs:ignore WordPress.DB.PreparedSQL.InterpolatedNotPrepared, WordPress.DB.DirectDatabaseQuery -- As above.
			$wpdb->query( $wpdb->prepare( "INSERT INTO {$table} ( option_name, option_value, autoload ) VALUES ( %s, %s, 'no' ) ON DUPLICATE KEY UPDATE option_value = VALUES( option_value )", 'buddyline_' . $name, (string) $value ) );
		}
	}

	/**
	 * Counts events that were not sent; a negative number removes what a resync has covered.
	 *
	 * @param int    $events Number of events.
	 * @param string $name   Counter.
	 */
	public static function add_missed( $events, $name = 'missed' ) {
		global $wpdb;
		$table = Buddyline_Options::table();
		// phpcs:ignore WordPress.DB.PreparedSQL.InterpolatedNotPrepared, WordPress.DB.DirectDatabaseQuery -- As above.
		$wpdb->query( $wpdb->prepare( "INSERT INTO {$table} ( option_name, option_value, autoload ) VALUES ( %s, %d, 'no' ) ON DUPLICATE KEY UPDATE option_value = GREATEST( 0, CAST( option_value AS SIGNED ) + %d )", 'buddyline_' . $name, max( 0, $events ), $events ) );
	}

	/**
	 * Takes the right to try again after a failure. Only one process gets it, so that a server that
	 * hangs holds up one process at a time.
	 *
	 * @param int $seen  The time of the next attempt, as it was read.
	 * @param int $until The time of the attempt after this one.
	 * @return bool
	 */
	public static function claim_retry( $seen, $until ) {
		global $wpdb;
		$table = Buddyline_Options::table();
		// phpcs:ignore WordPress.DB.PreparedSQL.InterpolatedNotPrepared, WordPress.DB.DirectDatabaseQuery -- As above.
		return 1 === (int) $wpdb->query( $wpdb->prepare( "UPDATE {$table} SET option_value = %s WHERE option_name = 'buddyline_retry_at' AND option_value = %s", (string) $until, (string) $seen ) );
	}

	/**
	 * The pause after so many failures in a row: 2, 4, 8, 16, 32, then 60 seconds.
	 *
	 * @param int $failures Failures in a row.
	 * @return int
	 */
	public static function pause( $failures ) {
		return (int) min( self::LONGEST_PAUSE, 2 ** max( 1, min( 6, $failures ) ) );
	}
}
