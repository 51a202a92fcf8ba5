<?php
/**
 * Removes everything that the plugin has stored.
 *
 * @package Buddyline
 */

defined( 'WP_UNINSTALL_PLUGIN' ) || exit;

global $wpdb;

if ( is_multisite() ) {
	switch_to_blog( get_main_site_id() );
}
wp_clear_scheduled_hook( 'buddyline_retry' );
// phpcs:disable WordPress.DB.DirectDatabaseQuery -- All options with the plugin's prefix, among them the ids of requests.
$buddyline_names = $wpdb->get_col( $wpdb->prepare( "SELECT option_name FROM {$wpdb->options} WHERE option_name LIKE %s", $wpdb->esc_like( 'buddyline_' ) . '%' ) );
// phpcs:enable
foreach ( $buddyline_names as $buddyline_name ) {
	delete_option( $buddyline_name );
}
if ( is_multisite() ) {
	restore_current_blog();
}
