<?php
/**
 * Accepts the id of each signed request once.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The ids of the last minutes, one row of the options table each: the unique key of the table makes
 * the decision atomic between PHP processes.
 */
final class Buddyline_Replay {

	/**
	 * How many ids are remembered at most. Only holders of the secret can add one.
	 */
	const LIMIT = 5000;

	/**
	 * How many expired ids each new one removes, so that the table shrinks faster than it grows.
	 */
	const SWEEP = 50;

	/**
	 * Takes an id.
	 *
	 * @param string $id  Valid id.
	 * @param int    $now Unix time.
	 * @return bool False if the id was seen before, or too many are remembered.
	 */
	public static function accept( $id, $now ) {
		global $wpdb;
		$table = Buddyline_Options::table();
		$like  = $wpdb->esc_like( 'buddyline_id_' ) . '%';
		// phpcs:disable WordPress.DB.PreparedSQL.InterpolatedNotPrepared, WordPress.DB.DirectDatabaseQuery -- The table's name has no placeholder, and options have no atomic insert.
		$wpdb->query( $wpdb->prepare( "DELETE FROM {$table} WHERE option_name LIKE %s AND CAST( option_value AS UNSIGNED ) < %d LIMIT %d", $like, $now, self::SWEEP ) );
		if ( (int) $wpdb->get_var( $wpdb->prepare( "SELECT COUNT(*) FROM {$table} WHERE option_name LIKE %s", $like ) ) >= self::LIMIT ) {
			return false;
		}
		// A signature stays valid for the window after its time, which may lie a window ahead.
		$until = (string) ( $now + 2 * Buddyline_Signature::WINDOW + 1 );
		// Ids differ by case, the names of options may not: the hash keeps them apart.
		return 1 === (int) $wpdb->query( $wpdb->prepare( "INSERT IGNORE INTO {$table} ( option_name, option_value, autoload ) VALUES ( %s, %s, 'no' )", 'buddyline_id_' . hash( 'sha256', $id ), $until ) );
		// phpcs:enable
	}
}
